"""Samplers: `sampler(denoise, x, sigmas, noise) -> x`."""
