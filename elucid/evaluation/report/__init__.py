"""The report on training runs: a page of its own, which needs no other file."""
