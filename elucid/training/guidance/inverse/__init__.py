"""Denoisers of images given a measurement, one method a file."""
