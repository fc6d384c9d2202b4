"""Ensembles of samples against the truth: error, spread, CRPS, ranks, coverage."""
