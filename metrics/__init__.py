"""Scores of images: features, their statistics, distances. Read next: `detectors.py`."""
