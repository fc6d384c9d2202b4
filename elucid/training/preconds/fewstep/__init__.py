"""Preconditioners of models of one step and a few."""
