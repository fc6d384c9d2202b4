"""Moving averages of the weights."""
