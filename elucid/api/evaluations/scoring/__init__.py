"""Scores of the snapshots of a run, while it trains or afterwards."""
