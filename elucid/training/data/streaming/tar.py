"""Reads the samples of a shard, a tar as webdataset has them: members of one sample follow each other, `KEY.EXTENSION`.

The members are listed once; reads are positioned (`pread`), so that threads need no lock.
"""

import hashlib
import mmap
import os
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.training.data import npy
from elucid.training.data.pictures import is_picture

BLOCK = 512  # bytes, the unit of a tar
LABELS = (".cls", ".json")
"""Extensions of labels: a class number in decimal, or a vector as a list in JSON."""


class Damaged(Exception):
    """A shard is not what its description says."""


class Member(NamedTuple):
    """A file in a tar: its name, and where its content is."""

    name: str
    offset: int
    size: int


def members(data: mmap.mmap) -> list[Member]:
    """Return the regular files of a tar, in order. Raises Damaged if it is none.

    Those of the form ustar with short names, as this program writes, are listed here, in a fraction of the time that
    Python's `tarfile` needs; all others by that.
    """
    found, place = [], 0
    while place + BLOCK <= len(data) and data[place] != 0:
        header = data[place : place + BLOCK]
        if header[257:262] != b"ustar" or header[156:157] not in (b"0", b"\0") or header[345]:
            return _listed_by_tarfile(data)
        try:
            found.append(Member(_text(header[:100]), place + BLOCK, int(_text(header[124:136]).strip() or "0", 8)))
        except ValueError:
            return _listed_by_tarfile(data)
        place += BLOCK + -(-found[-1].size // BLOCK) * BLOCK
    if place > len(data):
        raise Damaged("it ends amid a file")
    return found


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode()


def _listed_by_tarfile(data: mmap.mmap) -> list[Member]:
    data.seek(0)
    try:
        with tarfile.open(fileobj=data, mode="r:") as tar:
            files = [member for member in tar if member.isreg() and not member.issparse()]
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise Damaged(f"it is no tar ({error})") from error
    if any(member.offset_data + member.size > len(data) for member in files):
        raise Damaged("it ends amid a file")
    return [Member(member.name.removeprefix("./"), member.offset_data, member.size) for member in files]


class OpenShard:
    """An open shard of `samples`. Closes its file when nothing refers to it any more; `use` is kept for as long.

    Raises Damaged if its size, its hash unless that is None, or its number of samples is another.
    """

    def __init__(self, path: Path, samples: int, size: int, sha256: str | None, use: Any = None):
        self._path, self._use = path, use
        self._handle = os.open(path, os.O_RDONLY)
        found = os.fstat(self._handle).st_size
        if found != size:
            raise Damaged(f"it has {found} bytes instead of {size}")
        with mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ) as data:
            if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
                raise Damaged("its SHA-256 is not that of its description")
            items, labels = _samples(data)
        if len(items) != samples:
            raise Damaged(f"it has {len(items)} samples instead of {samples}")
        self._names = [item.name for item in items]
        self._places = np.array([item[1:] for item in items], dtype=np.int64).reshape(-1, 2)
        none = Member("", 0, -1)
        self._labels = np.array([(labels.get(i, none))[1:] for i in range(len(items))], dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the name of a sample's image."""
        return self._names[index]

    def encoded(self, index: int) -> bytes:
        """Return the file of a sample's image. Raises UserError if it cannot be read."""
        return self._read(*self._places[index].tolist())

    def label(self, index: int) -> bytes | None:
        """Return the file of a sample's label, None if it has none. Raises UserError if it cannot be read."""
        offset, size = self._labels[index].tolist()
        return None if size < 0 else self._read(offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._handle, size, offset)
        except OSError as error:
            raise UserError(f"{self._path} cannot be read: {error.strerror}; check the disk") from error
        if len(data) != size:
            raise UserError(f"{self._path} has become shorter while it was read; start again")
        return data

    def __del__(self) -> None:
        if "_handle" in self.__dict__:
            os.close(self.__dict__.pop("_handle"))


def _samples(data: mmap.mmap) -> tuple[list[Member], dict[int, Member]]:
    """Return the images of a shard, and the labels by the position of the image."""
    items: list[Member] = []
    labels: dict[int, Member] = {}
    keys: list[str] = []
    waiting: dict[str, Member] = {}  # labels that come before their images
    for member in members(data):
        key, dot, extension = member.name.partition(".")
        extension = dot + extension
        if extension in LABELS:
            if keys and keys[-1] == key:
                labels[len(keys) - 1] = member
            else:
                waiting[key] = member
        elif is_picture(member.name) or extension == npy.SUFFIX:
            keys.append(key)
            items.append(member)
            if key in waiting:
                labels[len(keys) - 1] = waiting.pop(key)
    return items, labels
