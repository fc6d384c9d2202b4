"""Denoisers that wrap denoisers."""
