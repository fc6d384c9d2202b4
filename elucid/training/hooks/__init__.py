"""Hooks that run during training, at every step, tick and snapshot."""
