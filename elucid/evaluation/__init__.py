"""Evaluation that needs the model itself, not only its samples."""
