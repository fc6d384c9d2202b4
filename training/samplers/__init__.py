"""Samplers: `sampler(denoise, x, sigmas, noise) -> x`. Read next: `edm.py`."""
