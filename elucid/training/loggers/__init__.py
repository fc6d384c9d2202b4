"""Loggers for the statistics, text lines and images of a run."""
