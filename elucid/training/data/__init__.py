"""Datasets and the resumable stream of training batches."""
