"""Samplers of flow matching, which keep x_t and step in t."""
