"""Reading files from strangers: limits, checksums, and checks before anything is opened."""
