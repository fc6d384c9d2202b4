"""Data sets made from folders, archives and arrays. Read next: `convert.py`."""
