"""Sampling of images from snapshots."""
