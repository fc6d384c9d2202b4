"""Presets of train.py's flags: published recipes by family."""
