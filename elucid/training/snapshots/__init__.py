"""Snapshots of trained denoisers, our own and published checkpoints."""
