"""Formats of array files: what each says of its content, and how samples are read from it."""
