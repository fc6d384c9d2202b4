"""Detectors with weights trained on natural images, from installed packages or a download."""
