"""Fused kernels, and what is computed instead where they cannot run."""
