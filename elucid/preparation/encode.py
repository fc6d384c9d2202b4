"""Encodes images to stored latents: the posterior's mean and standard deviation, sampled during training."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.in_threads import in_threads
from elucid.dnnlib.progress import progress_bar
from elucid.preparation.pool import available_cores
from elucid.preparation.writer import archive_name, open_destination, require_elsewhere
from elucid.torch_utils.distributed import choose_device
from elucid.training.data import npy
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.data.latents import encoder_line
from elucid.training.data.statistics import latent_sums, moments_of
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
    measure: bool = False,
    final_std: float | None = None,
    max_images: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> EncodingReport:
    """Store the latents and labels of a dataset for train.py --train_on_latents=1.

    `destination` is a .zip or a new folder with a .npy [2C,h,w] per image and dataset.json. `encoder` is vae or
    edm2_vae, which EDM2's own programs read, too. `dtype` is float16, or float32, the default of edm2_vae. `measure`
    notes mean and standard deviation of each channel of these latents, by which training then brings each to deviation
    `final_std`, unless given what its preconditioner wants. `max_images` encodes a random part only. Raises UserError
    for images that the VAE cannot encode, without leaving an incomplete destination.
    """
    if encoder not in ENCODERS:
        raise UserError(f"`encoder`={encoder} is not known; use {' or '.join(ENCODERS)}")
    _require_one_normalisation(measure, scale, final_std)
    require_elsewhere(source, destination)
    dataset = _images_of(source, max_images)
    given = {} if model is None else {"model": model}
    vae = VAE(**{**ENCODERS[encoder], **given}, scale=scale, batch_size=batch)
    dtype = dtype or ("float32" if encoder == "edm2_vae" else "float16")
    shape = vae.latent_shape(dataset.channels, dataset.resolution)
    vae.to(choose_device(device))
    about = {"name": "vae", "model": vae.model, **vae.convention, "sha256": vae.sha256}
    total, squares = np.zeros(shape[0]), np.zeros(shape[0])
    with open_destination(destination, overwrite) as write:
        batches = _batches(dataset, batch, workers or available_cores())
        made = (moments for images in batches for moments in vae.numpy_moments(images))
        bar = progress_bar(made, total=len(dataset), desc="encoding", disable=not progress, delay=0.5)
        for index, moments in enumerate(bar):
            stored = _rounded(moments, dtype, dataset.image_name(index))
            write(archive_name(index, npy.SUFFIX), npy.to_npy(stored))
            if measure:  # as they are stored, so that `verify` finds the same
                added, added_squares = latent_sums(stored)
                total, squares = total + added, squares + added_squares
        if measure:
            mean, std = moments_of(total, squares, len(dataset) * shape[1] * shape[2])
            about = _measured(about, mean, std, final_std)
        write("dataset.json", _description(dataset, about))
    return EncodingReport(source, str(destination), len(dataset), shape, about)


def _require_one_normalisation(measure: bool, scale: float | None, final_std: float | None) -> None:
    if measure and scale is not None:
        raise UserError(
            f"`measure` and `scale`={scale:g} exclude each other, as statistics of each channel take the place of the "
            "factor; leave one of them out"
        )
    if final_std is not None and not measure:
        raise UserError(
            f"`final_std`={final_std:g} is the deviation that measured latents are brought to; give `measure`, too"
        )
    if final_std is not None and not 0 < final_std < math.inf:
        raise UserError(f"`final_std`={final_std:g} must be a number above 0")


def _images_of(source: str, max_images: int | None) -> ImageDataset:
    """Open a dataset of images. Raises UserError for stored latents."""
    dataset = open_dataset(source, max_size=max_images, latents=True)
    if dataset.encoder is not None:
        raise UserError(
            f"{source} holds latents, not images, so there is nothing to encode; dataset_tool.py verify measures them "
            "and prints their statistics as flags for train.py"
        )
    return dataset


def _measured(about: dict, mean: np.ndarray, std: np.ndarray, final_std: float | None) -> dict:
    """Return the description of the encoder with measured statistics. Raises UserError if a channel is constant."""
    if not (std > 0).all():
        raise UserError(
            f"channel {int(std.argmin())} of the latents is the same everywhere, so it cannot be normalised; check "
            "images and VAE, or leave `measure` out"
        )
    known = {key: value for key, value in about.items() if key not in ("scale", "mean", "std", "final_std", "sha256")}
    stated = {} if final_std is None else {"final_std": final_std}
    return {**known, "mean": mean.tolist(), "std": std.tolist(), **stated, "sha256": about["sha256"]}


def _batches(dataset: ImageDataset, size: int, workers: int) -> Iterator[np.ndarray]:
    """Yield batches of images u8 [B,C,H,W] in order; the next batch is decoded in the background."""
    images = in_threads(dataset.image, range(len(dataset)), workers, size)
    while batch := list(islice(images, size)):
        yield np.stack(batch)


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
