"""Checks of tensors, files of tensors and networks from outside, before they can do harm."""
