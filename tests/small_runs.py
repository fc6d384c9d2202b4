"""Small runs of the recipe of CIFAR-10, for tests of devices."""

from pathlib import Path

import numpy as np
from PIL import Image

NETWORK = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}
"""A network for 16x16 pixels in which all kinds of blocks occur: with attention, with another resolution, plain."""


def pictures(folder: Path) -> Path:
    """Sixteen pictures of 16x16 in four folders, one for each class."""
    generator = np.random.default_rng(0)
    for index in range(16):
        path = folder / "pictures" / f"class{index % 4}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder / "pictures"


def options(folder: Path, parts: dict, dataset: dict, **loop) -> dict:
    """Options of a run on the pictures: EDM's preconditioning, Adam, two averages, and `parts`."""
    rest = {
        "encoder": {"name": "rgb"},
        "precond": {"name": "edm"},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "lr_schedule": {"name": "constant", "warmup_kimg": 0.01},
        "ema": {"name": "halflife", "halflife_mimg": [0.5, 0.1]},
        "sampler": "edm",
        "schedule": "karras",
        "dataset": {"path": str(folder / "pictures"), "use_labels": True, **dataset},
        "loop": {"batch_size": 8, "duration_mimg": 1e-3, "seed": 1, "bench": False, **loop},
    }
    return {**rest, **parts}
