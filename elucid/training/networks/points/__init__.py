"""Networks of points: images of one pixel."""
