"""Inverse problems from texts and files to a denoiser."""
