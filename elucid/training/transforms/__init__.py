"""Batch to batch, on the device."""
