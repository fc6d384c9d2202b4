"""Evaluations of arrays of any channels, which apply to pictures, too."""
