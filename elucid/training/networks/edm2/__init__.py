"""The network of EDM2, whose layers keep the magnitude of activations and weights (Karras et al. 2024)."""
