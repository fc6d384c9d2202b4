"""Small autoencoders with random weights, and data sets to encode, for what needs latents and not good ones."""

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from elucid.preparation.convert import convert


def save_tiny_vae(folder: Path, channels: int = 4, seed: int = 0, **config) -> Path:
    """Write an AutoencoderKL that makes images 2 times smaller, as `save_pretrained` writes it."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=channels,
            sample_size=16,
            **config,
        )
        with torch.no_grad():  # posteriors and pictures with some contrast, as those of a trained one
            model.quant_conv.weight.mul_(3)
            model.decoder.conv_out.weight.mul_(5)
    model.save_pretrained(folder)
    return Path(folder)


def as_hub_download(vae: Path, hub: Path, name: str) -> None:
    """Lay an autoencoder into a hub cache, as if it had been downloaded by that name."""
    commit = "0" * 40
    place = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(vae, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)


def save_pictures(archive: Path, count: int = 24, size: int = 16, gray: bool = False) -> Path:
    """Write a data set of random blotches, three classes."""
    rng = np.random.default_rng(0)
    folder = archive.with_suffix("")
    for index in range(count):
        blotches = rng.integers(0, 256, (4, 4) if gray else (4, 4, 3), dtype=np.uint8)
        path = folder / "abc"[index % 3] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blotches).resize((size, size), Image.Resampling.BICUBIC).save(path)
    convert(str(folder), archive, workers=1, progress=False)
    return archive
