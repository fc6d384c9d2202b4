"""Flags and options to objects: presets, settings, build, run folders."""
