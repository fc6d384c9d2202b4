"""Opens pictures or arrays that are given for sampling: a folder, an archive, or a file of one."""

import numpy as np
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.regular import read_regular
from elucid.training.config.data import read_dataset
from elucid.training.config.settings import DataOptions
from elucid.training.data import npy
from elucid.training.data.arrays.formats.npy_header import npy_header
from elucid.training.data.arrays.formats.tiff_header import tiff_header
from elucid.training.data.arrays.members import is_array, read_array
from elucid.training.data.base import Dataset
from elucid.training.data.pictures import is_picture, load_picture


def is_one_file(path: str) -> bool:
    """Return whether a path is that of a single picture or array, not a `.npy` [N,C,H,W] of many."""
    if not path.lower().endswith(npy.SUFFIX):
        return is_picture(path)
    try:
        with open(path, "rb") as file:
            return len(npy_header(file, path).shape) < 4
    except (OSError, UserError):
        return True  # what it lacks is told by whoever reads it


class OneMap(Dataset):
    """A picture or array in a file of its own."""

    def __init__(self, path: str):
        self.path = self.name = path
        data = read_regular(path)
        if is_array(path) and not is_plain_picture(data, path):
            self._array = read_array(data, path)
            self.arrays = {"name": "arrays"}
        else:
            pixels = np.asarray(_plain(load_picture(data, path)))
            self._array = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        self.channels, self.resolution = len(self._array), tuple(self._array.shape[1:])

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> np.ndarray:
        return self._array


def is_plain_picture(data: bytes, name: str) -> bool:
    """Return whether a TIFF is a picture, of one page and 8 bits; no other file that may hold an array is."""
    if not is_picture(name):
        return False
    header = tiff_header(data, name)
    return header is None or header.picture


def _plain(picture: Image.Image) -> Image.Image:
    return picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode == "1" else "RGB")


def open_arrays(path: str, what: str) -> Dataset:
    """Open pictures or arrays: a folder or archive, or a single file. Raises UserError that names the option `what`."""
    try:
        if is_one_file(path):
            return OneMap(path)
        found = read_dataset(DataOptions(path))
    except OSError as error:
        raise UserError(f"`{what}`={path} cannot be read: {error.strerror}; check the path") from error
    except UserError as error:
        raise UserError(f"`{what}`: {error}") from error
    if found.shuffled:
        raise UserError(
            f"`{what}`={path} are shards in a random order, and no seed's own; give what they were made of, or shards "
            "of --shuffle=0"
        )
    return found
