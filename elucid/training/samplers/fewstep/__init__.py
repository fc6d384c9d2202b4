"""Samplers of models that need one step or a few."""
