"""Prepare, encode, verify and open datasets."""

import os
from inspect import signature
from typing import Any

from elucid.preparation.convert import convert as _convert
from elucid.preparation.fields.convert import ArrayOptions, convert_arrays
from elucid.preparation.fields.sources import is_array_source
from elucid.preparation.verify import verify as _verify
from elucid.training.data.dataset import ImageDataset, open_dataset

__all__ = ["ImageDataset", "encode", "open", "prepare", "verify"]


def prepare(source: str | os.PathLike, dest: str | os.PathLike, **options: Any):
    """Convert the images or arrays of `source` to a dataset, a .zip or new folder, and return a report.

    `source`: a folder with one folder per class, a zip, `*_lmdb`, an idx file, `cifar-10-python.tar.gz`,
    `builtin:digits`. Options: `resolution` (width, height), `transform`, `channels`, `max_images`, `background`,
    `unlabelled`, `overwrite`, `workers`; of arrays those of `ArrayOptions`, `max_images` and `overwrite`. Raises
    UserError naming the image, file or option.
    """
    if not is_array_source(os.fspath(source)):
        return _convert(os.fspath(source), dest, **options)
    own = {name: options.pop(name) for name in signature(ArrayOptions).parameters if name in options}
    return convert_arrays(os.fspath(source), dest, ArrayOptions(**own), **options)


def encode(source: str | os.PathLike, dest: str | os.PathLike, **options: Any):
    """Store the latents of a dataset for training on latents, and return a report.

    Options: `model` (a diffusers AutoencoderKL: hub name, folder or file), `encoder`, `scale`, `measure`, `final_std`,
    `max_images`, `batch`, `dtype`, `device`, `overwrite`, `workers`. Raises UserError naming the image, file or option.
    """
    from elucid.preparation.encode import encode as _encode  # imports torch, which the others do not need

    return _encode(os.fspath(source), dest, **options)


def verify(source: str | os.PathLike, workers: int | None = None):
    """Check all images and labels of a dataset, and return a report with its statistics."""
    return _verify(os.fspath(source), workers)


def open(path: str | os.PathLike) -> ImageDataset:
    """Open a dataset: `len(data)`, `data.image(i)` u8[C,H,W], `data.labels`."""
    return open_dataset(os.fspath(path), arrays=True)
