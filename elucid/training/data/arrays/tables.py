"""Datasets that are one array: HDF5, Zarr, `.npy` and `.npz`, read sample by sample."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from elucid.dnnlib.errors import UserError, note
from elucid.dnnlib.reading import limits
from elucid.training.data.arrays.axes import axes_of
from elucid.training.data.arrays.chunks import Rows
from elucid.training.data.arrays.dtypes import require_real, require_stored
from elucid.training.data.arrays.form import form_of
from elucid.training.data.arrays.formats.attributes import channels_of
from elucid.training.data.arrays.formats.hdf5 import open_hdf5
from elucid.training.data.arrays.formats.npz import open_npy, open_npz
from elucid.training.data.arrays.formats.stored import StoredArray, require_sane
from elucid.training.data.arrays.formats.zarr_array import open_zarr
from elucid.training.data.dataset import subset
from elucid.training.data.labels import MAX_CLASSES, LabelledDataset, Labels, class_names

_READERS = {
    **dict.fromkeys((".h5", ".hdf5", ".he5", ".nc", ".nc4"), open_hdf5),
    **dict.fromkeys((".zarr", ".zarr.zip"), open_zarr),
    ".npy": open_npy,
    ".npz": open_npz,
}
MANY, LARGE = 8, 1 << 20
"""Samples, and bytes, that are decompressed to read one, from which on a note tells of it."""


class Place(NamedTuple):
    """A file, or the folder of a Zarr store, its suffix, and the name of an array or group in it, perhaps ""."""

    file: Path
    suffix: str
    inside: str


def table_at(path: str | os.PathLike) -> Place | None:
    """Return where a path leads if it is a file of one array for all samples, or an array in it; else None."""
    path = Path(path)
    for part in (path, *path.parents):
        suffix = next((one for one in (".zarr.zip", part.suffix.lower()) if part.name.lower().endswith(one)), "")
        if suffix in _READERS and (part.is_file() or (suffix == ".zarr" and part.is_dir())):
            return Place(part, suffix, path.relative_to(part).as_posix().strip("."))
    return None


class ArrayTable(LabelledDataset):
    """One array of all samples: [N,C,H,W], [N,H,W] with one channel, or other `axes` such as NHWC, NCW and NW.

    `path` is a `.h5`, `.zarr`, `.npy` or `.npz`, or an array in one, `fields.h5/group/name`. Samples are in the data's
    own units; with floats, what the file marks as missing is NaN. `labels` names the array beside it with classes [N]
    or vectors [N,D]. Opening reads no samples. Raises UserError for what is no such array.
    """

    has_names = False  # for they are numbers
    _axes_option = "dataset.reader.axes"
    arrays: dict

    def __init__(
        self,
        path: str | os.PathLike,
        use_labels: bool = False,
        max_size: int | None = None,
        seed: int = 0,
        axes: str | None = None,
        labels: str = "labels",
    ):
        self.path, self.use_labels = str(path), use_labels
        place = table_at(path)
        if place is None:
            raise UserError(f"{path}: no such array; give a .h5, .zarr, .npy or .npz, or FILE/NAME of an array in one")
        self._stored = array = _READERS[place.suffix](place.file, place.inside, labels, self._largest())
        require_sane(array)
        self._require_dtype()
        self.name = place.file.name.removesuffix(place.suffix)
        self._axes = axes_of(array.shape, axes, array.where, self._axes_option)
        self.channels, *sides = self._axes.sample_shape(array.shape)
        self.resolution = sides[0], sides[1]
        self.dtype = array.dtype.newbyteorder("=")
        self.num_images = array.shape[0]  # in the file; len() counts the subset
        kept = subset(self.num_images, max_size, seed)
        self._where = kept
        self._labels = labels_beside(array, labels)
        if kept is not None and self._labels is not None:
            self._labels = self._labels.select(kept)
        self._subset = "all" if kept is None else f"{max_size}:{seed}"
        self._rows = Rows(array)
        self._note_chunks()
        self.arrays = form_of(channels_of(array.attributes, self.channels), array.where)
        if use_labels:
            self._require_labels()

    def __len__(self) -> int:
        return self.num_images if self._where is None else len(self._where)

    def __repr__(self) -> str:
        height, width = self.resolution
        size = f"{height}x{width}, {self.channels} channels, {self.dtype}"
        return f"<{type(self).__name__} {self._stored.where}: {len(self)} samples, {size}>"

    @property
    def fingerprint(self) -> str:
        """Return a hex digest of path, size, modification time, axes and subset, e.g. as a cache key."""
        text = f"v1:{self._stored.fingerprint()}:{self._axes.letters}:{self._subset}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def image_name(self, index: int) -> str:
        """Return the name of a sample, `fields.h5/x[12]`, with its place in the file."""
        return f"{self._stored.where}[{self._place(index)}]"

    def image(self, index: int) -> np.ndarray:
        """Return a sample [C,H,W] in own units. Raises UserError if it cannot be read."""
        return self._filled(np.array(self._axes.sample(self._rows[self._place(index)]), dtype=self.dtype, order="C"))

    @property
    def read(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """A function that returns many samples at once, [N,C,H,W], where one by one is slower; else None."""
        return self._read if self._rows.batched else None

    def _read(self, indices: np.ndarray) -> np.ndarray:
        found = self._rows.many(np.array([self._place(index) for index in indices.tolist()]))
        return self._filled(np.stack([self._axes.sample(one) for one in found]).astype(self.dtype, copy=False))

    def _filled(self, values: np.ndarray) -> np.ndarray:
        if self._stored.fill is not None:
            values[values == self.dtype.type(self._stored.fill)] = np.nan
        return values

    def _place(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        return index if self._where is None else int(self._where[index])

    def _largest(self) -> int:
        """Return how many bytes of an array that is compressed whole may be decompressed into memory."""
        return limits.SMALL

    def _require_dtype(self) -> None:
        require_stored(self._stored.dtype, self._stored.where, self.path)

    def _note_chunks(self) -> None:
        more = self._rows.reads_more
        if more >= MANY and more * self._stored.row_bytes >= LARGE:
            note(
                f"{self._stored.where}: {more} samples are decompressed to read one; store it with "
                f"chunks of one, or convert it: dataset_tool.py --source={self.path} --dest=NAME.zip"
            )

    def _require_labels(self) -> None:
        if self._labels is None:
            raise UserError(
                f"{self._stored.where} has no array of labels beside it, which `cond`=1 needs; train with `cond`=0, or "
                "name one: dataset.reader.labels"
            )
        if len(missing := self._labels.missing):
            raise UserError(
                f"{len(missing)} of {len(self)} samples of {self._stored.where} have no label, which `cond`=1 needs "
                f"(first: {self.image_name(int(missing[0]))}); label them, or train with `cond`=0"
            )


class SourceTable(ArrayTable):
    """One array of all samples for conversion, of any real dtype, read in order; it may be compressed whole."""

    has_names = False  # for they are numbers
    _axes_option = "`axes`"

    def _largest(self) -> int:
        return limits.ARRAY_BYTES.value

    def _require_dtype(self) -> None:
        require_real(self._stored.dtype, self._stored.where)

    def _note_chunks(self) -> None:
        pass  # in order, each is read once


def labels_beside(array: StoredArray, name: str) -> Labels | None:
    """Return the labels beside an array: classes, integers [N] with -1 for none, or vectors [N,D], NaN for none.

    Raises UserError for another length, kind or range.
    """
    found: tuple[np.ndarray, Any] | None = array.beside(name)
    if found is None:
        return None
    values, named = found
    where = f"the labels {name!r} of {array.where}"
    if values.ndim not in (1, 2) or 0 in values.shape or values.dtype.kind not in "iuf":
        raise UserError(f"{where} are {values.dtype} {list(values.shape)}; they must be integers [N] or floats [N,D]")
    if len(values) != array.shape[0]:
        raise UserError(f"{where} are {len(values)}, and there are {array.shape[0]} samples; give each one label")
    names = class_names(named, where)
    if values.ndim == 1 and values.dtype.kind != "f":
        end = len(names) if names else MAX_CLASSES
        low, high = int(values.min()), int(values.max())
        if low < -1 or high >= end:
            wrong = low if low < -1 else high
            raise UserError(f"{where} have {wrong}; classes are 0 to {end - 1}, and -1 is no label")
        return Labels(values.astype(np.int64), names) if high >= 0 else None
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(values.reshape(len(values), -1), dtype=np.float32)
    absent = np.isnan(vectors).all(axis=1)
    if not np.isfinite(vectors[~absent]).all():
        raise UserError(f"{where} have values that are not finite; a missing label is all NaN")
    return None if absent.all() else Labels(vectors, names)
