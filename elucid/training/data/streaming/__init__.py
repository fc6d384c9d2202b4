"""Datasets in shards: tar files in a folder, an object store, on a web server or a hub, read through a cache."""
