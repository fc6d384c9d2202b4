"""The index of a large dataset: made once, kept in the cache, and mapped by all processes of a machine."""
