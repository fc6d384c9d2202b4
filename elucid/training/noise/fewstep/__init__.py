"""Noise levels of models that make an image in one step or a few."""
