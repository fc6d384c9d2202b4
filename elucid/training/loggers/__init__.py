"""Where a run's values, lines and pictures go."""
