"""Noise processes, noise level distributions for training, and schedules for sampling."""
