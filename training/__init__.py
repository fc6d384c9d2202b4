"""Diffusion training, from the zip to the snapshot. Read next: `types.py`."""
