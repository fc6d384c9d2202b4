"""Transforms of training batches, on the device."""
