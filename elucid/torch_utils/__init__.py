"""Utilities that depend only on torch: processes, random numbers, statistics, checkpoints."""
