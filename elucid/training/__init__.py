"""Diffusion training, from the zip to the snapshot."""
