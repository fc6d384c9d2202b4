"""Encodes images to stored latents: the posterior's mean and standard deviation, sampled during training."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.preparation.pool import available_cores
from elucid.preparation.writer import archive_name, open_destination, require_elsewhere
from elucid.torch_utils.distributed import choose_device
from elucid.training.data import npy
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.data.latents import encoder_line
from elucid.training.encoders.edm2 import EDM2_VAE
from elucid.training.encoders.vae import VAE

ENCODERS: dict[str, dict] = {"vae": {}, "edm2_vae": EDM2_VAE}
"""The form of latents: of a VAE with its scale factor, or EDM2's."""


@dataclass
class EncodingReport:
    """Result of encoding."""

    source: str
    destination: str
    count: int
    shape: tuple[int, int, int]  # C, h, w of the latents
    encoder: dict

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        channels, height, width = self.shape
        yield f"{self.count} latents of {width}x{height}, {channels} channels, from {self.source}"
        yield encoder_line(self.encoder)
        yield f"written: {self.destination}"


def encode(
    source: str,
    destination: str | os.PathLike,
    *,
    encoder: str = "vae",
    model: str | None = None,
    scale: float | None = None,
    batch: int = 8,
    dtype: str | None = None,
    device: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> EncodingReport:
    """Store the latents and labels of a dataset for train.py --train_on_latents=1.

    `destination` is a .zip or a new folder with a .npy [2C,h,w] per image and dataset.json. `encoder` is vae or
    edm2_vae, which EDM2's own programs read, too. `dtype` is float16, or float32, the default of edm2_vae. Raises
    UserError for images that the VAE cannot encode, without leaving an incomplete destination.
    """
    if encoder not in ENCODERS:
        raise UserError(f"`encoder`={encoder} is not known; use {' or '.join(ENCODERS)}")
    require_elsewhere(source, destination)
    dataset = open_dataset(source)
    given = {} if model is None else {"model": model}
    vae = VAE(**{**ENCODERS[encoder], **given}, scale=scale, batch_size=batch)
    dtype = dtype or ("float32" if encoder == "edm2_vae" else "float16")
    shape = vae.latent_shape(dataset.channels, dataset.resolution)
    vae.to(choose_device(device))
    about = {"name": "vae", "model": vae.model, **vae.convention, "sha256": vae.sha256}
    with open_destination(destination, overwrite) as write:
        batches = _batches(dataset, batch, workers or available_cores())
        made = (moments for images in batches for moments in vae.numpy_moments(images))
        bar = progress_bar(made, total=len(dataset), desc="encoding", disable=not progress, delay=0.5)
        for index, moments in enumerate(bar):
            write(archive_name(index, npy.SUFFIX), npy.to_npy(_rounded(moments, dtype, dataset.image_name(index))))
        write("dataset.json", _description(dataset, about))
    return EncodingReport(source, str(destination), len(dataset), shape, about)


def _batches(dataset: ImageDataset, size: int, workers: int) -> Iterator[np.ndarray]:
    """Yield batches of images u8 [B,C,H,W] in order; the next batch is decoded in the background."""
    parts = [range(start, min(start + size, len(dataset))) for start in range(0, len(dataset), size)]
    with ThreadPoolExecutor(workers) as pool:
        waiting = pool.map(dataset.image, parts[0])
        for part in [*parts[1:], range(0)]:
            following = pool.map(dataset.image, part)
            yield np.stack(list(waiting))
            waiting = following


def _rounded(moments: np.ndarray, dtype: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = moments.astype(dtype)
    if not np.isfinite(rounded).all():
        mend = "give `dtype`=float32" if np.isfinite(moments).all() else "check the VAE"
        raise UserError(f"the latents of {name} are not finite in {dtype}; {mend}")
    return rounded


def _description(dataset: ImageDataset, encoder: dict) -> bytes:
    """Create dataset.json with the labels under the new names, and the encoder of the latents."""
    content: dict[str, object] = {"labels": None, "encoder": encoder}
    if labels := dataset.labels:
        missing = set(labels.missing.tolist())
        kept = [index for index in range(len(dataset)) if index not in missing]
        content["labels"] = [[archive_name(index, npy.SUFFIX), labels.values[index].tolist()] for index in kept]
        if labels.class_names:
            content["class_names"] = labels.class_names
    return json.dumps(content).encode()
