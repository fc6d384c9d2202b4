"""Copies of weights in other types, and buffers that need no copies."""
