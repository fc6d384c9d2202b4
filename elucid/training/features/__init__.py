"""Frozen encoders whose tokens losses compare with those of the network."""
