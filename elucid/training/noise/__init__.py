"""Noise processes, the levels drawn in training, and those visited in sampling."""
