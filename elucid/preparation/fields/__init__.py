"""Arrays of any source as datasets: sources, conversion, verification."""
