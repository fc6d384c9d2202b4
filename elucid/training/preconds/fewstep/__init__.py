"""Preconditioners of models of one step or a few."""
