"""Arrays in Zarr stores, folders and zips, through the optional zarr."""

import logging
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits
from elucid.dnnlib.reading.zips import zip_members
from elucid.training.data.arrays.dtypes import require_real
from elucid.training.data.arrays.formats.attributes import fill_of, texts
from elucid.training.data.arrays.formats.stored import StoredArray, chosen, failures, require_sane

_METADATA = ("zarr.json", ".zarray", ".zgroup")
_CODECS = frozenset(
    "bytes endian transpose sharding_indexed crc32c crc32 adler32 fletcher32 jenkins_lookup3 gzip zlib zstd blosc bz2 "
    "lzma lz4 shuffle delta bitround fixedscaleoffset quantize packbits astype pcodec zfpy".split()
)
"""Codecs that give numbers; others may do more, as numcodecs' `pickle`, which runs what it reads."""


class _Others(logging.Filter):
    """Drops what asyncio says of a task of zarr that failed beside another one, whose error is raised."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "zarr" not in record.getMessage()


_OTHERS = _Others()


def open_zarr(file: Path, inside: str, labels: str, largest: int) -> StoredArray:
    """Open an array of a store, by default the only one with three axes or more. Raises UserError."""
    zarr = _library(file)
    if file.is_file():
        zip_members(file)
    elif not any((file / name).is_file() for name in _METADATA):
        raise UserError(f"{file} is no Zarr store: it has no {_METADATA[0]}; check the path, or copy it again")
    with failures(str(file), Exception):
        found = _find(file, inside)
        if found is None:
            raise UserError(
                f"{file} has no {inside}; there is {', '.join([*_arrays(_find(file, ''))][:8]) or 'nothing'}"
            )
        if isinstance(found, zarr.Group):
            arrays = {name: one.shape for name, one in _arrays(found).items() if name.rpartition("/")[2] != labels}
            samples = {f"{inside}/{name}".strip("/"): shape for name, shape in arrays.items() if len(shape) > 2}
            inside = chosen(samples, [*arrays], str(file), inside)
            found = _find(file, inside)
        return ZarrArray(file, inside, found)


class ZarrArray(StoredArray):
    """An array of a store, which each process opens for itself. Chunks that are not there have the fill value."""

    def __init__(self, file: Path, inside: str, array: Any):
        self.file, self.inside, self.where = file, inside, f"{file}/{inside}" if inside else str(file)
        _require_codecs(array, self.where)
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        attributes = dict(array.attrs)
        self.fill, self.attributes = fill_of(attributes, self.dtype, self.where), attributes
        require_sane(self)
        self.rows_per_chunk = int(array.chunks[0])
        size = math.prod(map(int, array.chunks)) * self.dtype.itemsize
        limits.ARRAY_BYTES.require(size, f"{self.where}: the size of a chunk")

    batched = True

    def open(self) -> Any:
        with failures(str(self.file), Exception):
            return _find(self.file, self.inside)

    def rows(self, first: int, end: int) -> np.ndarray:
        with failures(f"{self.where}: sample {first}", Exception):
            return np.asarray(self.handle[first:end])

    def many(self, indices: np.ndarray) -> np.ndarray:
        with failures(f"{self.where}: one of the samples {indices[0]} to {indices[-1]}", Exception):
            return np.asarray(self.handle.oindex[indices])

    def beside(self, name: str) -> tuple[np.ndarray, Any] | None:
        with failures(self.where, Exception):
            group = self.inside.rpartition("/")[0]
            found = _find(self.file, f"{group}/{name}".strip("/")) if self.inside else None
            if found is None or not hasattr(found, "shape"):
                return None
            where = f"{self.file}/{found.path}"
            _require_codecs(found, where)
            require_real(np.dtype(found.dtype), where)
            limits.ARRAY_BYTES.require(found.nbytes, f"{where}: its size")
            return np.asarray(found[...]), texts(found.attrs.get("class_names"))

    def fingerprint(self) -> str:
        return super().fingerprint() + "".join(f"{os.stat(one).st_mtime_ns:x}" for one in self._watched())

    def _watched(self) -> list[Path]:
        """Return the files and folders whose modification times tell of changes: chunks may be millions."""
        folder = self.file / self.inside
        return [one for one in (folder, *(folder / name for name in _METADATA)) if one.exists()]


def _find(file: Path, inside: str) -> Any:
    """Return an array or group of a store; None if there is none."""
    import zarr

    kind = zarr.storage.ZipStore if file.is_file() else zarr.storage.LocalStore
    try:
        return zarr.open(kind(file, read_only=True), path=inside, mode="r")
    except FileNotFoundError:
        return None


def _require_codecs(array: Any, where: str) -> None:
    """Raise UserError for a codec that is not listed."""
    about = array.metadata.to_dict()
    waiting = [about.get("compressor"), *(about.get("filters") or ()), *(about.get("codecs") or ())]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, dict):
            continue
        name = str(one.get("id", one.get("name"))).removeprefix("numcodecs.")
        if name not in _CODECS:
            raise UserError(f"{where} is packed by {name}, which is not read; store it with zstd, blosc or gzip")
        inside = one.get("configuration")
        for key in ("codecs", "index_codecs"):
            waiting += inside.get(key) or () if isinstance(inside, dict) else ()


def _arrays(group: Any) -> dict[str, Any]:
    """Return the arrays below a group by their names in it."""
    import zarr

    if isinstance(group, zarr.Array):
        return {}
    return {name: one for name, one in group.members(max_depth=5) if isinstance(one, zarr.Array)}


def _library(file: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise UserError(
            f"{file} is Zarr, for which zarr is not installed: pip install 'elucid[zarr]', with Python 3.11 or later"
        ) from error
    logging.getLogger("asyncio").addFilter(_OTHERS)
    warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
    if int(zarr.__version__.partition(".")[0]) < 3:
        raise UserError(f"{file} needs zarr 3, and {zarr.__version__} is installed: pip install 'elucid[zarr]'")
    return zarr
