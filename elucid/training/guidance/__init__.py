"""Guidance and coordinate windows: denoisers that wrap another denoiser."""
