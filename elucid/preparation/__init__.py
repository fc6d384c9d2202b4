"""Data sets made from folders, archives and arrays."""
