"""The two-dimensional laboratory: models of point sets whose density is known."""
