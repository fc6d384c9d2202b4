"""Arrays in HDF5 files, netCDF-4 among them, through the optional h5py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits
from elucid.training.data.arrays.dtypes import require_real
from elucid.training.data.arrays.formats.attributes import fill_of, texts
from elucid.training.data.arrays.formats.stored import PlainArray, StoredArray, chosen, failures, require_sane

_MOST = 1000
"""Objects of a file that are looked at for arrays."""
_LIBRARY = (RuntimeError, ValueError, KeyError, TypeError)
"""What h5py raises for damaged files, besides OSError."""


def open_hdf5(file: Path, inside: str, labels: str, largest: int) -> StoredArray:
    """Open a dataset of a file, by default the only one with three axes or more. Raises UserError."""
    h5py = _library(file)
    with failures(str(file), *_LIBRARY), h5py.File(file, "r", locking="best-effort") as opened:
        found = opened.get(inside) if inside else opened
        if found is None:
            there = [name for name, _ in _datasets(opened)]
            raise UserError(f"{file} has no {inside}; there is {', '.join(there[:8]) or 'nothing'}")
        if found.file.filename != opened.filename:
            raise UserError(f"{file}/{inside} is a link to {found.file.filename}; give that file")
        if isinstance(found, h5py.Group):
            arrays = {name: one.shape or () for name, one in _datasets(found) if name.rpartition("/")[2] != labels}
            samples = {f"{inside}/{name}".strip("/"): shape for name, shape in arrays.items() if len(shape) > 2}
            inside = chosen(samples, [*arrays], str(file), inside)
        return Hdf5Array(file, opened[inside])


class Hdf5Array(StoredArray):
    """A dataset of a file, which each process opens for itself; h5py lets one thread at a time read.

    One that is neither chunked nor compressed is read without the library.
    """

    def __init__(self, file: Path, dataset: Any):
        self.file, self.inside = file, dataset.name.strip("/")
        self.where = f"{file}/{self.inside}"
        if not hasattr(dataset, "shape") or dataset.shape is None:
            raise UserError(f"{self.where} is no array; check the path")
        self.shape, self.dtype = dataset.shape, dataset.dtype
        attributes = dict(dataset.attrs)
        self.fill, self.attributes = fill_of(attributes, self.dtype, self.where), attributes
        if dataset.external:
            raise UserError(f"{self.where} has its values in other files, which are not read; copy it with h5repack")
        require_sane(self, None if dataset.is_virtual else dataset.id.get_storage_size())
        if dataset.chunks:
            self.rows_per_chunk = dataset.chunks[0]
            size = int(np.prod(dataset.chunks, dtype=object)) * self.dtype.itemsize
            limits.ARRAY_BYTES.require(size, f"{self.where}: the size of a chunk")
        offset = None if dataset.chunks or dataset.is_virtual else dataset.id.get_offset()
        self._plain = offset and PlainArray(file, self.where, offset, self.shape, self.dtype)

    def open(self) -> Any:
        h5py = _library(self.file)
        with failures(str(self.file), *_LIBRARY):
            return h5py.File(self.file, "r", locking="best-effort")[self.inside]

    def rows(self, first: int, end: int) -> np.ndarray:
        if self._plain:
            return self._plain.rows(first, end)
        with failures(f"{self.where}: sample {first}", *_LIBRARY):
            return self.handle[first:end]

    def beside(self, name: str) -> tuple[np.ndarray, Any] | None:
        with failures(self.where, *_LIBRARY):
            found = self.handle.parent.get(name)
            if found is None or not hasattr(found, "shape"):
                return None
            where = f"{self.file}/{found.name.strip('/')}"
            require_real(found.dtype, where)
            limits.ARRAY_BYTES.require(found.nbytes, f"{where}: its size")
            limits.require_ratio(found.nbytes, found.id.get_storage_size(), where)
            return np.asarray(found[()]), texts(found.attrs.get("class_names"))


def _datasets(group: Any) -> Iterator[tuple[str, Any]]:
    """Yield the datasets below a group by their names in it, those nearest first; links to other files are left out."""
    import h5py

    waiting, left = [("", group)], _MOST
    while waiting:
        prefix, here = waiting.pop(0)
        for name in here:
            left -= 1
            if left < 0:
                return
            if not isinstance(here.get(name, getlink=True), h5py.HardLink):
                continue
            one = here[name]
            if isinstance(one, h5py.Group):
                waiting.append((f"{prefix}{name}/", one))
            elif isinstance(one, h5py.Dataset):
                yield f"{prefix}{name}", one


def _library(file: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{file} is HDF5, for which h5py is not installed: pip install 'elucid[hdf5]'") from error
    return h5py
