"""The form of a sample's file: a PNG of a picture, or a `.npy` of an array in the data's own units, with a note."""

import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.regular import read_regular
from elucid.training.data import npy
from elucid.training.data.pictures import DECODE_ERRORS, opened
from elucid.training.sampling.output.grid import png

NOTE = "elucid"
"""PNG text chunk with the class of a sample and the digest of the options that generated it."""


class Form(ABC):
    """Base class: how samples [C,H,W] are files with a note {"class": ..., "by": digest}."""

    suffix: str

    @abstractmethod
    def encoded(self, sample: Tensor, note: dict) -> bytes:
        """Return the file of a sample."""

    @abstractmethod
    def note(self, file: Path | IO[bytes]) -> dict | None:
        """Return the note in a file; None for files of other origin."""

    @abstractmethod
    def read(self, path: Path) -> np.ndarray:
        """Return the sample [C,H,W] in a file."""


class Pictures(Form):
    """PNG files of u8[C,H,W], gray or RGB."""

    suffix = ".png"

    def encoded(self, sample: Tensor, note: dict) -> bytes:
        return png(sample, {NOTE: json.dumps(note)})

    def note(self, file: Path | IO[bytes]) -> dict | None:
        try:
            with opened(file) as image:
                found = json.loads(image.info.get(NOTE, "null"))
        except DECODE_ERRORS:
            return None
        return _valid(found)

    def read(self, path: Path) -> np.ndarray:
        pixels = np.array(opened(path))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


class ArrayFiles(Form):
    """`.npy` files of arrays [C,H,W] of the data's type, in its units; the note is behind the numbers."""

    suffix = npy.SUFFIX

    def encoded(self, sample: Tensor, note: dict) -> bytes:
        return npy.to_npy(sample.cpu().numpy(), note)

    def note(self, file: Path | IO[bytes]) -> dict | None:
        try:
            data = read_regular(os.fspath(file)) if isinstance(file, (str, os.PathLike)) else file.read()
            return _valid(npy.note_of(data, str(file)))
        except (OSError, UserError):
            return None

    def read(self, path: Path) -> np.ndarray:
        return npy.from_npy(read_regular(str(path)), str(path), npy.ARRAYS)


def read_note(file: Path | IO[bytes]) -> dict | None:
    """Return the note in a sample's file of either form, {"class": ..., "by": digest}; None for other files."""
    if isinstance(file, (str, os.PathLike)):
        is_array = str(file).endswith(npy.SUFFIX)
    else:
        is_array = file.read(6) == np.lib.format.MAGIC_PREFIX
        file.seek(0)
    return (ArrayFiles() if is_array else Pictures()).note(file)


def _valid(note: object) -> dict | None:
    return note if isinstance(note, dict) and "class" in note else None
