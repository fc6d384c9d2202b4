"""Base class of arrays in files, read by ranges of samples, and those that lie in a file or in memory as they are."""

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits


class StoredArray(ABC):
    """Base class: an array whose first axis counts samples. Can be read from threads, pickled, used after a fork.

    `where` names it in messages, `file` is its file or folder. `rows_per_chunk` samples are decompressed together;
    `batched` tells that many samples at once, `many`, take much less time than one by one. `fill` is the value that
    stands for a missing one, if that is not NaN; `attributes` are those in the file.
    """

    file: Path
    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    rows_per_chunk: int = 1
    batched: bool = False
    fill: float | None = None
    attributes: dict[str, Any] = {}
    _held: tuple[int, Any] | None = None

    @abstractmethod
    def rows(self, first: int, end: int) -> np.ndarray:
        """Return samples `first` to `end`, which are in the array. Raises UserError if they cannot be read."""

    def many(self, indices: np.ndarray) -> np.ndarray:
        """Return samples at ascending places [N,...]. Raises UserError like `rows`."""
        return np.concatenate([self.rows(index, index + 1) for index in indices.tolist()])

    def beside(self, name: str) -> tuple[np.ndarray, Any] | None:
        """Return the array of a name beside this one, whole, with its `class_names` if it has any; None if none is."""
        return None

    def open(self) -> Any:
        """Open what `handle` gives, if there is something to open."""
        raise NotImplementedError

    @property
    def handle(self) -> Any:
        """What the process holds open, opened anew after a fork; threads that open it at once may do so twice."""
        held = self._held
        if held is None or held[0] != os.getpid():
            held = self._held = (os.getpid(), self.open())
        return held[1]

    def fingerprint(self) -> str:
        """Return a hex digest of name, size and modification time."""
        status = os.stat(self.file)
        text = f"{os.path.abspath(self.file)}:{self.where}:{status.st_size}:{status.st_mtime_ns}"
        return hashlib.sha256(os.fsencode(text)).hexdigest()

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_held"}


class PlainArray(StoredArray):
    """An array in C order at a place of a file: `.npy`, members of an `.npz` or datasets of HDF5 that are not packed.

    It is read by `pread`, which needs no lock, and tells of a file that was cut where a mapping would end the process.
    """

    def __init__(self, file: Path, where: str, offset: int, shape: tuple[int, ...], dtype: np.dtype):
        self.file, self.where, self.offset, self.shape, self.dtype = file, where, offset, shape, dtype
        needed, size = offset + math.prod(shape) * dtype.itemsize, os.path.getsize(file)
        if needed > size:
            raise UserError(f"{where} is cut: it needs {needed} bytes of {file}, which has {size}; copy it again")

    def open(self) -> "Descriptor":
        return Descriptor(os.open(self.file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))

    def rows(self, first: int, end: int) -> np.ndarray:
        size = (end - first) * self.row_bytes
        held = self.handle  # which stays open while it is referred to, whatever another thread opens
        with failures(self.where):
            data = os.pread(held.number, size, self.offset + first * self.row_bytes)
            while len(data) < size:  # more than 2 GiB, or some network file systems
                place = self.offset + first * self.row_bytes + len(data)
                more = os.pread(held.number, size - len(data), place)
                if not more:
                    raise OSError(None, "it ends early")
                data += more
        return np.frombuffer(data, self.dtype).reshape(end - first, *self.shape[1:])


class Descriptor:
    """A number of an open file, which is closed with the object."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class MemoryArray(StoredArray):
    """An array in memory."""

    def __init__(self, file: Path, where: str, array: np.ndarray):
        self.file, self.where, self.shape, self.dtype, self._array = file, where, array.shape, array.dtype, array

    def rows(self, first: int, end: int) -> np.ndarray:
        return self._array[first:end]


def require_sane(array: StoredArray, stored: int | None = None) -> None:
    """Raise UserError for an empty array, and for absurd sizes, before anything is made for them.

    `stored` is its size in the file, if that is known.
    """
    if 0 in array.shape or not array.shape:
        raise UserError(f"{array.where} is empty, {list(array.shape)}; give an array of samples")
    limits.ENTRIES.require(array.shape[0], f"{array.where}: the number of its samples")
    limits.FILE_BYTES.require(array.row_bytes, f"{array.where}: the size of a sample")
    if stored is not None:
        limits.require_ratio(array.shape[0] * array.row_bytes, stored, array.where)


@contextmanager
def failures(where: str, *more: type[Exception]) -> Iterator[None]:
    """Turn errors of the system, and those of a library, into UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except (OSError, MemoryError, *more) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{where} cannot be read ({reason}); copy or download it again") from error


def chosen(candidates: dict[str, tuple[int, ...]], others: list[str], where: str, inside: str) -> str:
    """Return the only array of a file or group that may hold samples. Raises UserError that lists what there is.

    `candidates` have their shapes; `others` are too small for samples.
    """
    if len(candidates) == 1:
        return next(iter(candidates))
    place = f"{where}/{inside}" if inside else where
    found = [f"{name} {list(shape)}" for name, shape in candidates.items()]
    listed = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    if found:
        raise UserError(f"{place} holds {len(found)} arrays; give one, as {where}/{next(iter(candidates))}: {listed}")
    there = f"only {', '.join(others[:8])}" if others else "nothing"
    raise UserError(f"{place} holds no array of samples with three axes or more, {there}; name one, or check the path")
