"""Presets of models with discrete noise levels: minimal-diffusion's DDPMs, a study of landscapes, ADM.

Networks come from `registry.adm_presets`, whose options have the names of the programs that trained them. Sources: the
documentation of minimal-diffusion and of the study; the tables of Dhariwal & Nichol 2021. docs/adm.md says what is
not in them.
"""

import json
import math
from typing import Any

from elucid.training.registry.adm_options import DIFFUSION, network_options
from elucid.training.registry.adm_presets import PRESETS as ADM


def half_life(batch: int, decay: float) -> float:
    """Return the half-life, in millions of images, of an average with this decay per step."""
    return round(batch * math.log(0.5) / math.log(decay) / 1e6, 6)


def network(original: dict[str, Any], arch: str = "adm_unet", **more: Any) -> dict[str, Any]:
    """Return the flags of a network and of its process, for options with the original program's names."""
    options = network_options({name: value for name, value in original.items() if name not in DIFFUSION}) | more
    options.pop("img_resolution", None)
    return {
        "arch": arch,
        "cbase": options.pop("model_channels"),
        "cres": options.pop("channel_mult"),
        "dropout": options.pop("dropout"),
        "beta_schedule": original["noise_schedule"],
        "diffusion_steps": original["diffusion_steps"],
        "augment": 0.0,
        "set": [*(f"network.{name}={json.dumps(value)}" for name, value in options.items()), NO_WARMUP],
    }


NO_WARMUP = "lr_schedule.warmup_kimg=0"
PLAIN_EMA = "ema.rampup_ratio=null"
"""The average of a constant decay from the first step on."""

IMAGES = {
    "mnist": (28, 60_000), "mnist-m": (28, 60_000), "cifar10": (32, 50_000), "melanoma": (64, 33_126),
    "afhq": (64, 14_630), "celeba": (64, 109_036), "cars": (64, 8_144), "flowers": (64, 2_040), "gtsrb": (32, 39_252),
}  # fmt: skip
"""Side and number of images of minimal-diffusion's data sets."""
EPOCHS, BATCH = 500, 128
ATTENTION = {28: [14, 7]}
"""Sides with attention where a network's default sides do not occur."""


def minimal(side: int, images: int, respacing: str | None = "linspace250", **more: Any) -> dict[str, Any]:
    """Return minimal-diffusion's recipe: 500 epochs of batches of 128, AdamW, EMA 0.9995, 250 steps at sampling."""
    attention = {"attn_resolutions": ATTENTION[side]} if side in ATTENTION else {}
    flags = network({**ADM["minimal"], "image_size": side}, **attention, **more.pop("network", {}))
    flags["set"] += [PLAIN_EMA, *([f"schedule.respacing={respacing}"] if respacing else [])]
    recipe = {"precond": "ddpm", "optimizer": "adamw", "lr": 1e-4, "batch": BATCH, "ema": [half_life(BATCH, 0.9995)]}
    return {"cond": True, **flags, **recipe, "duration": images * EPOCHS / 1e6, **more}


def landscape(cond: bool, steps: int = 1000, activation: str = "gelu") -> dict[str, Any]:
    """Return the study's recipe, whose length and width are minimal-diffusion's."""
    own = {"activation": activation}
    process = {"beta_schedule": "linear", "diffusion_steps": steps}
    return minimal(32, 4_000, None, network=own, **process, cond=cond)


def adm(name: str, batch: int = 256, lr: float = 1e-4, iterations: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a recipe of ADM's diffusion models; AdamW without decay is Adam. `iterations` None: not in our sources."""
    original = ADM[name]
    flags = network(original)
    flags["set"].append(PLAIN_EMA)
    recipe = {"cond": original["class_cond"], "precond": "ddpm", "learn_sigma": original["learn_sigma"]}
    recipe |= {"batch": batch, "lr": lr, "ema": [half_life(batch, 0.9999)], "fp16": True, "ls": 100}
    duration = {} if iterations is None else {"duration": iterations * batch / 1e6}
    return {**flags, **recipe, **duration, **more}


def classifier(name: str, batch: int, iterations: int, lr: float, decay: float) -> dict[str, Any]:
    """Return a classifier of noisy images with its linearly falling rate; the weights are not averaged."""
    flags = network({"dropout": 0.0, **ADM[name]}, "adm_classifier")
    flags["set"].append(f"optimizer.weight_decay={decay}")
    recipe = {"cond": True, "precond": "ddpm_classifier", "transforms": ["random_crop"]}
    recipe |= {"optimizer": "adamw", "lr": lr, "lr_schedule": "linear", "ema": [0.0], "fp16": True, "ls": 100}
    return {**flags, **recipe, "batch": batch, "duration": iterations * batch / 1e6}


DISCRETE_PRESETS: dict[str, dict[str, Any]] = {
    **{f"ddpm-{name}": minimal(*size) for name, size in IMAGES.items()},
    "landscape-cond": landscape(True),
    "landscape-cond-500": landscape(True, steps=500),
    "landscape-cond-relu": landscape(True, activation="relu"),
    "landscape-uncond": landscape(False),
    "landscape-uncond-500": landscape(False, steps=500),
    "landscape-uncond-relu": landscape(False, activation="relu"),
    "adm-imagenet-64": adm("imagenet64", batch=2048, lr=3e-4, iterations=540_000),
    "adm-imagenet-128": adm("imagenet128", iterations=4_360_000),
    "adm-imagenet-256": adm("imagenet256", iterations=1_980_000),
    "adm-imagenet-512": adm("imagenet512", iterations=1_940_000),
    "adm-imagenet-256-uncond": adm("imagenet256_uncond"),
    "adm-lsun-256": adm("lsun256"),
    "adm-upsample-64-256": adm("upsample_64_256", lowres=4),
    "adm-upsample-128-512": adm("upsample_128_512", lowres=4),
    "adm-classifier-64": classifier("classifier64", 1024, 300_000, 6e-4, 0.2),
    "adm-classifier-128": classifier("classifier128", 256, 300_000, 3e-4, 0.05),
    "adm-classifier-256": classifier("classifier256", 256, 500_000, 3e-4, 0.05),
    "adm-classifier-512": classifier("classifier512", 256, 500_000, 3e-4, 0.05),
}
