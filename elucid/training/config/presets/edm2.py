"""Presets of EDM2's recipes (Karras et al. 2024, arXiv 2312.02696): ImageNet-512 as latents, and ImageNet-64.

Batches of 2048 images, Adam, a rate that falls with the inverse square root of the images seen. docs/edm2.md has the
published figures.
"""

from typing import Any

BATCH = 2048
SIZES = {"xxs": 64, "xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
"""Channels at full size, `cbase`, by the name of the size."""

RATES = {"xxs": 0.017, "xs": 0.012, "s": 0.01, "m": 0.009, "l": 0.008, "xl": 0.007, "xxl": 0.0065}
"""Peak learning rates, the same at both resolutions."""

LATENT_DURATIONS = {"xxs": 2048, "xs": 2048, "s": 2048, "m": 2048, "l": 1792, "xl": 1280, "xxl": 896}
IMAGE_DURATIONS = {"xs": 1024, "s": 1024, "m": 2048, "l": 1024, "xl": 640}
"""Training lengths in Mi images."""

REGULARISED = {"m", "l", "xl", "xxl"}
"""Sizes trained with dropout."""


def recipe(size: str, duration: int, decay: int, P_mean: float, P_std: float) -> dict[str, Any]:
    """Return the flags of a size; the rate falls after `decay` steps, `duration` is in Mi images."""
    return {
        "cond": True,
        "arch": "edm2",
        "cbase": SIZES[size],
        "precond": "edm2",
        "dropout": 0.1 if size in REGULARISED else 0.0,
        "augment": 0.0,
        "duration": f"{duration}Mi",
        "batch": BATCH,
        "lr": RATES[size],
        "lr_schedule": "inverse_sqrt",
        "fp16": True,
        "ls": 1,
        "tick": "128Ki",
        "snap": "8Mi",
        "dump": "128Mi",
        "set": [
            "optimizer.betas=[0.9,0.99]",
            f"lr_schedule.reference_mimg={decay * BATCH / 1e6}",
            "lr_schedule.warmup_kimg=10000",
            f"loss.base.noise.P_mean={P_mean}",
            f"loss.base.noise.P_std={P_std}",
            "ema.name=power",
            "ema.stds=[0.05,0.1]",
        ],
    }


def latents(size: str) -> dict[str, Any]:
    """Return the recipe of ImageNet-512, on stored latents."""
    flags = recipe(size, LATENT_DURATIONS[size], 70_000, -0.4, 1.0)
    return {**flags, "train_on_latents": True, "set": [*flags["set"], "encoder.name=edm2_vae"]}


EDM2_PRESETS: dict[str, dict[str, Any]] = {
    **{f"edm2-img512-{size}": latents(size) for size in LATENT_DURATIONS},
    **{f"edm2-img64-{size}": recipe(size, IMAGE_DURATIONS[size], 35_000, -0.8, 1.6) for size in IMAGE_DURATIONS},
}
