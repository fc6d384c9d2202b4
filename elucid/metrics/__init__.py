"""Scores of images: features, their statistics, distances."""
