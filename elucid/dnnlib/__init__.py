"""Utilities without torch: configuration, files, errors, command lines."""
