"""Trained denoisers as files of data, ours and published ones."""
