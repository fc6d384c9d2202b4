"""Arrays of any source as datasets: sources, statistics of channels, conversion, verification."""
