"""Preconditioners, which turn a network into a denoiser; one per file."""
