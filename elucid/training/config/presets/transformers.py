"""Presets of published transformers: DiT, SiT, JiT, REPA, LightningDiT, DDT; docs/transformers.md has their figures.

Sources: Peebles & Xie 2022 (arXiv 2212.09748), Ma et al. 2024 (2401.08740), Li & He 2025 (2511.13720), Yu et al. 2024
(2410.06940), Yao & Wang 2025 (2501.01423), Wang et al. 2025 (2504.05741). Losses are means over an image, as there.
"""

import json
from typing import Any

from elucid.training.config.presets.discrete import NO_WARMUP, PLAIN_EMA, half_life
from elucid.training.registry.public_transformers import PATCHES, SAMPLING
from elucid.training.registry.transformer_options import SIZES

IMAGENET = 1_281_167
"""Training images, an epoch."""
BATCH, STEPS = 256, 400_000
"""Batch of all but JiT and LightningDiT, and the length of comparisons."""
LONG = 1024
"""Batch of JiT and LightningDiT."""

SD_LATENTS = {"train_on_latents": True, "encoder.scale": 0.18215}


def assignments(options: dict[str, Any]) -> list[str]:
    """Return options by path as `part.option=value`."""
    return [f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in options.items()]


def recipe(arch: str, patch: int, family: str, steps: float, batch: int, **more: Any) -> dict[str, Any]:
    """Return the flags of a run of so many steps; `more` are other flags, and with a dot in the name other options."""
    sampler, schedule = SAMPLING[family]
    paths = {"network.patch": patch}
    paths |= {} if family == "dit" else {f"sampler.{name}": value for name, value in sampler.items()}
    paths |= {f"schedule.{name}": value for name, value in schedule.items() if name != "name"}
    paths |= {name: value for name, value in more.items() if "." in name}
    flags = {
        "cond": True,
        "arch": arch,
        "augment": 0.0,
        "label_dropout": 0.1,
        "batch": batch,
        "duration": steps * batch / 1e6,
        "lr": 1e-4,
        "ema": [half_life(batch, 0.9999)],
    }
    flags |= {name: value for name, value in more.items() if "." not in name}
    return {**flags, "set": [*assignments(paths), NO_WARMUP, PLAIN_EMA]}


def dit(size: str, patch: int, steps: int = STEPS) -> dict[str, Any]:
    """Return DiT's recipe: noise and variance of DDPM with 1000 linear betas."""
    own = {"precond": "ddpm", "learn_sigma": True, "xflip": True, "precision": "tf32", **SD_LATENTS}
    return recipe(f"dit-{size}", patch, "dit", steps, BATCH, **own)


def sit(size: str, patch: int = 2, steps: int = STEPS) -> dict[str, Any]:
    """Return SiT's recipe: DiT's, for the velocity of the linear path."""
    own = {"precond": "flow", "precond.time": "data", "loss.mean": True, "xflip": True, "precision": "tf32"}
    return recipe(f"sit-{size}", patch, "sit", steps, BATCH, **own, **SD_LATENTS)


def jit(size: str, patch: int, epochs: int = 600) -> dict[str, Any]:
    """Return JiT's recipe for images of 16 patches a side: x is predicted, the velocity's error counts."""
    flags = recipe(
        f"jit-{size}",
        patch,
        "jit",
        epochs * IMAGENET / LONG,
        LONG,
        lr=2e-4,
        ema=[half_life(LONG, decay) for decay in (0.9999, 0.9996)],
        precond="flow",
        xflip=True,
        precision="bf16",
        **{
            "precond.prediction": "x",
            "precond.time": "data",
            "precond.noise_scale": patch / 16,
            "loss.clamp": 0.05,
            "loss.mean": True,
            "loss.noise.name": "logit_normal",
            "loss.noise.P_mean": 0.8,
            "loss.noise.P_std": 0.8,
            "optimizer.betas": [0.9, 0.95],
        },
    )
    rise = f"lr_schedule.warmup_kimg={5 * IMAGENET / 1000}"
    return {**flags, "set": [rise if one == NO_WARMUP else one for one in flags["set"]]}


def repa() -> dict[str, Any]:
    """Return REPA's recipe for SiT-XL/2: velocity and the alignment of block 8 with DINOv2, 4M steps."""
    own = {"precond": "flow", "loss": "alignment(flow)", "clip": 1.0, "precision": "fp16"}
    paths = {"loss.base.mean": True, "loss.layer": "block8", "loss.weight": 0.5, "loss.features.name": "dinov2"}
    return recipe("sit-xl", 2, "repa", 4_000_000, BATCH, **own, **paths, **SD_LATENTS)


def lightningdit(steps: int) -> dict[str, Any]:
    """Return LightningDiT-XL/1's recipe; its latents' autoencoder and statistics are for the user to give."""
    own = {"precond": "flow", "lr": 2e-4, "xflip": True, "precision": "bf16", "train_on_latents": True}
    paths = {
        "encoder.final_std": 1.0,
        "precond.time": "data",
        "loss.mean": True,
        "loss.cosine": 1.0,
        "loss.noise.name": "logit_normal",
        "optimizer.betas": [0.9, 0.95],
    }
    return recipe("lightningdit-xl", 1, "lightningdit", steps, LONG, **own, **paths)


def ddt() -> dict[str, Any]:
    """Return DDT-XL/2's recipe; its batch and length are REPA's, as our sources do not say them."""
    own = {"precond": "flow", "loss": "alignment(flow)", "precision": "bf16"}
    paths = {
        "precond.time": "data",
        "loss.base.mean": True,
        "loss.base.noise.name": "logit_normal",
        "loss.layer": "block8",
        "loss.weight": 0.5,
        "loss.features.name": "dinov2",
        "optimizer.betas": [0.9, 0.95],
    }
    return recipe("ddt-xl", 2, "ddt", 4_000_000, BATCH, **own, **paths, **SD_LATENTS)


TRANSFORMER_PRESETS: dict[str, dict[str, Any]] = {
    **{f"dit-{size}-{patch}": dit(size, patch) for size in SIZES["dit"] for patch in PATCHES["DiT"]},
    "dit-xl-2": dit("xl", 2, 7_000_000),
    "dit-xl-2-512": dit("xl", 2, 3_000_000),
    **{f"sit-{size}-2": sit(size) for size in SIZES["sit"]},
    "sit-xl-2": sit("xl", steps=7_000_000),
    "sit-xl-2-512": sit("xl", steps=3_000_000),
    **{f"jit-{size}-{patch}": jit(size, patch, 320 if size == "g" else 600) for size in "blhg" for patch in (16, 32)},
    "jit-b-64": jit("b", 64),
    "repa-sit-xl-2": repa(),
    "lightningdit-xl-1-64": lightningdit(80_000),
    "lightningdit-xl-1-800": lightningdit(1_000_000),
    "ddt-xl-2": ddt(),
}
