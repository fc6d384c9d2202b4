"""Losses with a teacher, a frozen denoiser."""
