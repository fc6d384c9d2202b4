"""Small snapshots with random weights, for what needs a model and not a good one."""

from pathlib import Path

import torch

from elucid.training.config.build import make_denoiser
from elucid.training.snapshots.snapshot import Snapshot, save_snapshot
from elucid.training.types import NetSpec


def save_random_snapshot(
    path: Path,
    channels: int = 3,
    classes: int = 0,
    seed: int = 0,
    names=("0.5",),
    size: int = 8,
    options=None,
    class_names=None,
    nimg: int = 0,
    **spec,
) -> Path:
    """Write a snapshot of an 8x8 denoiser, by default; several `names` are averages that differ."""
    network = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    emas = {}
    for name in names:
        denoiser = make_denoiser(
            network, {"name": "edm"}, NetSpec((size, size), channels, vector={"labels": classes}, **spec)
        ).eval()
        emas[name] = randomised(denoiser, seed + len(emas))
    class_names = class_names or [f"kind {index}" for index in range(classes)] or None
    save_snapshot(path, Snapshot(emas, dataset={"class_names": class_names}, options=options or {}, nimg=nimg))
    return path


def randomised(denoiser, seed: int = 0, gain: float = 1.0):
    """Return the denoiser with random weights in all layers, also those that begin with zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            scale = gain * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return denoiser


def random_ddpm(size=(8, 8), channels=3, classes=0, learned=False, precond=None, vector=None, spatial=None, **network):
    """Return a small DDPM with the U-Net of ADM and random weights; `network` are other options of it."""
    network = {"name": "adm_unet", "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, **network}
    spec = NetSpec(size, channels, channels * (1 + learned), spatial or {}, {"labels": classes, **(vector or {})})
    return randomised(make_denoiser(network, {"name": "ddpm", **(precond or {})}, spec).eval(), gain=1.5)


def save_random_upsampler(path: Path, channels: int = 3, factor: int = 2, spatial=None, **rest) -> Path:
    """Write a snapshot of a denoiser that enlarges images `factor` times, by default those of 8x8."""
    options = {"lowres": {"name": "lowres", "factor": factor, "noise": 0.0}}
    maps = {"lowres": channels, **(spatial or {})}
    return save_random_snapshot(path, channels, options=options, spatial=maps, **{"size": 8 * factor, **rest})
