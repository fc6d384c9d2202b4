"""Diffusion training, from dataset archives to network snapshots."""
