"""Averages of the weights while training."""
