"""Opens pictures or arrays that are given for sampling: a folder, an archive, or a file of one."""

import numpy as np
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.regular import read_regular
from elucid.training.config.data import read_dataset
from elucid.training.config.settings import DataOptions
from elucid.training.data import npy
from elucid.training.data.base import Dataset
from elucid.training.data.pictures import is_picture, load_picture


def is_one_file(path: str) -> bool:
    """Return whether a path is that of a single picture or array."""
    return path.endswith(npy.SUFFIX) or is_picture(path)


class OneMap(Dataset):
    """A picture or array in a file of its own."""

    def __init__(self, path: str):
        self.path = self.name = path
        data = read_regular(path)
        if path.endswith(npy.SUFFIX):
            self._array = npy.from_npy(data, path, npy.ARRAYS)
            self.arrays = {"name": "arrays"}
        else:
            pixels = np.asarray(_plain(load_picture(data, path)))
            self._array = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        self.channels, self.resolution = len(self._array), tuple(self._array.shape[1:])

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> np.ndarray:
        return self._array


def _plain(picture: Image.Image) -> Image.Image:
    return picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode in ("1", "I;16") else "RGB")


def open_arrays(path: str, what: str) -> Dataset:
    """Open pictures or arrays: a folder or archive, or a single file. Raises UserError that names the option `what`."""
    try:
        if is_one_file(path):
            return OneMap(path)
        return read_dataset(DataOptions(path))
    except OSError as error:
        raise UserError(f"`{what}`={path} cannot be read: {error.strerror}; check the path") from error
