"""What only needs torch: processes, random numbers, statistics, checkpoints."""
