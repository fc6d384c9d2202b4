"""From a snapshot and seeds to images."""
