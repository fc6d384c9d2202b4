"""The latents of EDM2 (Karras et al. 2024, arXiv 2312.02696): options of the encoder `vae` that go together.

The autoencoder is fed pixels in [0, 1], not [-1, 1] as it was trained, and the statistics are those of such latents of
ImageNet, without a scale factor. Neither fits the other's usual form.
"""

EDM2_VAE: dict = {
    "model": "stabilityai/sd-vae-ft-mse",
    "pixels": "unit",
    "mean": [5.81, 3.25, 0.12, -2.15],
    "std": [4.17, 4.62, 3.71, 3.28],
    "final_std": 0.5,
}


def are_edm2s(mean: list[float], std: list[float]) -> bool:
    """Return whether these are EDM2's statistics, up to a hundredth."""
    pairs = [*zip(mean, EDM2_VAE["mean"], strict=False), *zip(std, EDM2_VAE["std"], strict=False)]
    return len(pairs) == 8 and all(abs(given - known) < 0.01 for given, known in pairs)
