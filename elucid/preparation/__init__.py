"""Preparation of datasets from folders, archives and arrays."""
