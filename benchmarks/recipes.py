"""Networks of the benchmarks and runs of them: the recipe of CIFAR-10, or of the demo, on pictures of noise.

It imports nothing but `Run` of the package, since `against.py` uses it with other versions of that.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from elucid.training.run import Run

NETWORKS = {
    "demo": {"name": "ddpmpp", "model_channels": 24, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]},
    "ddpmpp": {"name": "ddpmpp"},
    "ncsnpp": {"name": "ncsnpp"},
    "adm": {"name": "adm"},
    "edm2": {
        "name": "edm2",
        "model_channels": 128,
        "channel_mult": [2, 2, 2],
        "num_blocks": 4,
        "attn_resolutions": [16],
    },
    "dit": {"name": "dit-s"},
}
"""`edm2` has the widths and depth of DDPM++, and is trained with its own preconditioner and learned weighting.
`dit` is DiT-S/2: 256 tokens of 384 channels, 12 blocks."""
SIDES = {"demo": 16}
"""Sides of the images in pixels, where they are not 32."""
BATCHES = {"demo": 32, "ddpmpp": 4, "ncsnpp": 4, "adm": 4, "edm2": 4, "dit": 8}
"""Images per step on a CPU; on a GPU 128."""


def pictures(folder: Path, side: int, channels: int, count: int = 160) -> Path:
    """Pictures of noise in ten folders, one for each class."""
    generator = np.random.default_rng(0)
    shape = (count, side, side, 3)[: 4 if channels == 3 else 3]
    for index, pixels in enumerate(generator.integers(0, 256, shape, dtype=np.uint8)):
        path = folder / "pictures" / f"class{index % 10}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder / "pictures"


def new_run(arch: str, precision: str, device: torch.device, batch: int, folder: Path, dropout=None, **loop) -> Run:
    """The recipe of CIFAR-10, or of the demo, with this network."""
    demo = arch == "demo"
    dropout, cache = 0.0 if demo else dropout, "gpu" if device.type == "cuda" else "none"
    options = {
        "network": NETWORKS[arch] if dropout is None else {**NETWORKS[arch], "dropout": dropout},
        "encoder": {"name": "rgb"},
        "precond": {"name": "edm2" if arch == "edm2" else "edm"},
        "loss": {"name": "uncertainty", "base": {"name": "edm"}} if arch == "edm2" else {"name": "edm"},
        "augment": None if demo else {"name": "edm", "p": 0.12},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "lr_schedule": {"name": "constant", "warmup_kimg": 0.01},
        "ema": {"name": "halflife", "halflife_mimg": [0.5]},
        "sampler": "edm",
        "schedule": "karras",
        "dataset": {"path": str(folder / "pictures"), "use_labels": True, "cache": cache, "xflip": not demo},
        "loop": {"batch_size": batch, "duration_mimg": 1, "seed": 1, "precision": precision, **loop},
    }
    pictures(folder, SIDES.get(arch, 32), 1 if demo else 3)
    return Run(options, device)
