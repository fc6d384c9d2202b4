"""Datasets of arrays, one file each, in a zip or folder."""

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.training.data import npy
from elucid.training.data.arrays.members import array_header, is_array, read_array
from elucid.training.data.dataset import HEADER_BYTES, ImageDataset

_HEADER_BYTES = 1024  # in which a TIFF or .npz has its header, if it comes first


class ArrayDataset(ImageDataset):
    """Arrays [C,H,W] in units of their own, all of one shape and type; those with one axis less have one channel.

    `arrays` are the options of their encoder that the dataset knows, see `data.arrays.form`.
    """

    def image(self, index: int) -> np.ndarray:
        """Return an array [C,H,W]. Raises UserError if the file is damaged, or of another shape or type."""
        array = read_array(self.encoded(index), self._files.label_of(self._where[index]))
        shape = (self.channels, *self.resolution)
        if array.shape != shape or array.dtype != self.dtype:
            self._refuse(index, array)
        return array

    def check_headers(self) -> None:
        """Compare all headers with the first one. Raises UserError naming the first array of another shape or type."""
        size = HEADER_BYTES if self.image_name(0).endswith(npy.SUFFIX) else _HEADER_BYTES
        first, wanted = self._files.read(self._where[0], size), ((self.channels, *self.resolution), self.dtype)
        for index, start in self._starts(size, "checking arrays"):
            if start != first and array_header(start, self._files.label_of(self._where[index])) != wanted:
                self.image(index)  # whose header may lie elsewhere

    @staticmethod
    def _is_item(name: str) -> bool:
        return is_array(name)

    def _measure(self) -> tuple[tuple[int, int], int, np.dtype]:
        name = self._files.label_of(self._where[0])
        first = read_array(self.encoded(0), name)
        return first.shape[1:], len(first), first.dtype

    def _refuse(self, index: int, array: np.ndarray) -> None:
        ours, theirs = ("x".join(map(str, shape)) for shape in ((self.channels, *self.resolution), array.shape))
        raise UserError(
            f"{self.path} has arrays of several kinds: {self.image_name(0)} is {ours} of {self.dtype}, "
            f"{self.image_name(index)} is {theirs} of {array.dtype}; make them the same"
        )
