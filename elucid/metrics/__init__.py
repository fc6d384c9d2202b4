"""Metrics of images: feature detectors, statistics, distances."""
