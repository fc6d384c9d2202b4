"""Datasets of arrays, one file each, in a zip or folder."""

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.training.data import npy
from elucid.training.data.arrays.form import require_dtype
from elucid.training.data.dataset import HEADER_BYTES, ImageDataset


class ArrayDataset(ImageDataset):
    """Arrays [C,H,W] in units of their own, all of one shape and type; those with one axis less have one channel.

    `arrays` are the options of their encoder that the dataset knows, see `data.arrays.form`.
    """

    def image(self, index: int) -> np.ndarray:
        """Return an array [C,H,W]. Raises UserError if the file is damaged, or of another shape or type."""
        array = npy.from_npy(self.encoded(index), self._files.label_of(self._where[index]), npy.ARRAYS)
        shape = (self.channels, *self.resolution)
        if array.shape != shape or array.dtype != self.dtype:
            self._refuse(index, array)
        return array

    def check_headers(self) -> None:
        """Compare all headers with the first one. Raises UserError naming the first array of another shape or type."""
        first = self._files.read(self._where[0], HEADER_BYTES)
        for index, start in self._starts(HEADER_BYTES, "checking arrays"):
            if start != first:
                self.image(index)  # which may be the same, written by another program

    @staticmethod
    def _is_item(name: str) -> bool:
        return name.endswith(npy.SUFFIX)

    def _measure(self) -> tuple[tuple[int, int], int, np.dtype]:
        name = self._files.label_of(self._where[0])
        first = npy.from_npy(self.encoded(0), name, npy.ARRAYS)
        require_dtype(first.dtype, name)
        return first.shape[1:], len(first), first.dtype

    def _refuse(self, index: int, array: np.ndarray) -> None:
        ours, theirs = ("x".join(map(str, shape)) for shape in ((self.channels, *self.resolution), array.shape))
        raise UserError(
            f"{self.path} has arrays of several kinds: {self.image_name(0)} is {ours} of {self.dtype}, "
            f"{self.image_name(index)} is {theirs} of {array.dtype}; make them the same"
        )
