"""Elucid: a modular training framework for diffusion models."""
