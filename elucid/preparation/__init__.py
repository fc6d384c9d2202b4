"""Datasets made from folders, archives and arrays."""
