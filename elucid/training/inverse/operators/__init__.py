"""Linear operators that measure images, one file each."""
