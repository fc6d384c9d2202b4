"""Uniform access to the files of a folder or zip, by position; safe with threads and after a fork."""

import hashlib
import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from elucid.dnnlib.errors import UserError, note
from elucid.dnnlib.reading import limits
from elucid.dnnlib.reading.regular import read_regular, regular_files
from elucid.dnnlib.reading.zips import zip_members
from elucid.dnnlib.remote.hub import hub_data, is_hub

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of the name and the extra field


class FileSet(ABC):
    """The files of a folder or zip. `names` are sorted, relative, with forward slashes, without hidden files."""

    path: str
    name: str
    names: Sequence[str]
    index: Any = None
    """What is known of a large set in advance, see `data/index`."""

    def __len__(self) -> int:
        return len(self.names)

    def label_of(self, index: int) -> str:
        """Return the name of a file for messages."""
        return f"{self.path}/{self.names[index]}"

    def find(self, name: str) -> int | None:
        """Return the position of the file with this name, or None."""
        try:
            return self.names.index(name)
        except ValueError:
            return None

    @abstractmethod
    def read(self, index: int, limit: int | None = None, allowed: int = 0) -> bytes:
        """Return a file's content, or its first `limit` bytes. Raises UserError if it is corrupt or missing.

        A whole file may have `allowed` bytes even if that is more than the limit for one image.
        """

    def starts(self, positions: np.ndarray, size: int) -> Iterator[bytes]:
        """Yield the first `size` bytes of several files. Raises UserError like `read`."""
        return (self.read(index, size) for index in positions.tolist())

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hex digest of path, file sizes and modification times, to detect changes."""


def open_files(path: str | os.PathLike) -> FileSet:
    """Open a folder, a zip, or a folder inside a zip (`images.zip/train`). Raises UserError.

    Data sets on a hub, `hf://user/name`, are downloaded. A folder without pictures may hold parquet files.
    """
    from elucid.training.data import parquet  # which derives from what this module defines

    path, inside = located(path)
    with readable(path):
        if inside is None:
            return parquet.tables_in(FolderFiles(path))
        return ZipFiles(path, inside) if path.suffix != parquet.SUFFIX else parquet.ParquetFiles([path], path)


def located(path: str | os.PathLike) -> tuple[Path, str | None]:
    """Return the folder and None, or the file and the folder inside it, perhaps "". Raises UserError.

    Data sets on a hub, `hf://user/name`, are downloaded.
    """
    path = hub_data(str(path)) if is_hub(path) else Path(path)
    with readable(path):
        if path.is_dir():
            return path, None
        for archive in (path, *path.parents):
            if archive.is_file():
                return archive, path.relative_to(archive).as_posix().strip(".")
    raise UserError(f"{path}: no such file or folder; check the path")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise UserError naming the path for an OSError."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: no permission ({error.filename}); change its permissions") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


class FolderFiles(FileSet):
    """The files below a folder; `folders` are those it has, with their modification times in ns."""

    def __init__(self, path: Path, names: Sequence[str] | None = None):
        self.path = str(path)
        self.name = path.resolve().name
        self.folders: dict[str, int] = {}
        others: list[str] = []
        if names is None:
            names, others = regular_files(self.path, self.folders)
        self.names = names
        if others:
            note(f"{path}: left out {len(others)} pipes, devices or links without a target (first: {others[0]})")

    def read(self, index: int, limit: int | None = None, allowed: int = 0) -> bytes:
        try:
            return read_regular(os.path.join(self.path, self.names[index]), limit, allowed)
        except OSError as error:
            raise UserError(f"{self.label_of(index)} cannot be read: {error.strerror}; restore or remove it") from error

    def fingerprint(self) -> str:
        digest = hashlib.sha256(os.fsencode(os.path.abspath(self.path)))
        for name in self.names:
            status = os.stat(os.path.join(self.path, name))
            digest.update(os.fsencode(f"\n{name}:{status.st_size}:{status.st_mtime_ns}"))
        return digest.hexdigest()


class ZipColumns(NamedTuple):
    """Files of a zip in the order of their names: places of their headers, sizes in the zip, lengths, CRC-32, methods.

    Arrays keep a million entries small, also when they are sent to another process. Method -1 is encryption.
    """

    names: Sequence[str]
    offsets: np.ndarray
    sizes: np.ndarray
    lengths: np.ndarray
    checksums: np.ndarray
    methods: np.ndarray

    @classmethod
    def of(cls, path: Path, inside: str = "") -> "ZipColumns":
        """Read a zip's directory, or the part of it below a folder. Raises UserError for what must be refused."""
        members = zip_members(path)
        prefix = f"{inside}/" if inside else ""
        members = {name[len(prefix) :]: info for name, info in members.items() if name.startswith(prefix)}
        if inside and not members:
            raise UserError(f"{path} has no folder {inside!r}; it contains {_top_level(path)}")
        names = sorted(members)
        infos = [members[name] for name in names]
        return cls(
            names,
            np.array([info.header_offset for info in infos], dtype=np.int64),
            np.array([info.compress_size for info in infos], dtype=np.int64),
            np.array([info.file_size for info in infos], dtype=np.int64),
            np.array([info.CRC for info in infos], dtype=np.uint32),
            np.array([-1 if info.flag_bits & 1 else info.compress_type for info in infos], dtype=np.int16),
        )


class ZipFiles(FileSet):
    """The files of a zip, or of one folder inside it; `columns` says which, if that is known.

    Positioned reads (`pread`) share no file offset, so threads and forked processes need no lock.
    """

    def __init__(self, path: Path, inside: str = "", columns: ZipColumns | None = None):
        self.archive, self.inside = str(path), inside
        self.path = f"{path}/{inside}" if inside else str(path)
        self.name = zip_name(path, inside)
        self.columns = ZipColumns.of(path, inside) if columns is None else columns
        self.names = self.columns.names
        self._open()

    def read(self, index: int, limit: int | None = None, allowed: int = 0) -> bytes:
        columns = self.columns
        method = columns.methods[index]
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            why = "encrypted" if method == -1 else "compressed with an unsupported method"
            raise UserError(f"{self.label_of(index)} is {why}; create the zip again without that")
        try:
            offset, size, length = (int(one[index]) for one in (columns.offsets, columns.sizes, columns.lengths))
            if limit is None and length > allowed:
                limits.FILE_BYTES.require(length, f"{self.label_of(index)}: its size")
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(os.pread(self._handle, 30, offset))
            wanted = size if limit is None or method == zipfile.ZIP_DEFLATED else min(limit, size)
            data = _pread(self._handle, wanted, offset + 30 + name_length + extra_length)
            whole = signature == b"PK\x03\x04" and len(data) == wanted
            if method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, limit or length + 1)
        except (OSError, struct.error, zlib.error) as error:
            name, mend = self.label_of(index), "copy or download the zip again"
            raise UserError(f"{name} cannot be read from the zip: {error}; {mend}") from error
        if not whole or (limit is None and zlib.crc32(data) != columns.checksums[index]):
            raise UserError(
                f"{self.label_of(index)} is damaged (its checksum is wrong); copy or download the zip again"
            )
        return data

    def starts(self, positions: np.ndarray, size: int) -> Iterator[bytes]:
        columns, names = self.columns, 128  # bytes that a name and extra field mostly have room in
        stored = (columns.methods[positions] == zipfile.ZIP_STORED) & (columns.sizes[positions] >= size)
        for index, offset, plain in zip(positions.tolist(), columns.offsets[positions].tolist(), stored, strict=True):
            with suppress(OSError, struct.error):  # one call of the system for each, where `read` needs two
                data = os.pread(self._handle, 30 + names + size, offset) if plain else b""
                signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(data)
                found = data[30 + name_length + extra_length :][:size]
                if signature == b"PK\x03\x04" and len(found) == size:
                    yield found
                    continue
            yield self.read(index, size)

    def fingerprint(self) -> str:
        return zip_fingerprint(Path(self.archive), self.inside)

    def _open(self) -> None:
        self._handle = os.open(self.archive, os.O_RDONLY)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_handle"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def __del__(self) -> None:
        if "_handle" in self.__dict__:
            os.close(self.__dict__.pop("_handle"))


def zip_fingerprint(archive: Path, inside: str) -> str:
    """Return the fingerprint of a zip, or of a folder inside it, which needs not be opened. Raises OSError."""
    status = os.stat(archive)
    path = os.path.abspath(f"{archive}/{inside}" if inside else archive)
    return hashlib.sha256(os.fsencode(f"{path}:{status.st_size}:{status.st_mtime_ns}")).hexdigest()


def zip_name(archive: Path, inside: str) -> str:
    """Return the name of a zip, or of a folder inside it."""
    return f"{archive.stem}-{inside.replace('/', '-')}" if inside else archive.stem


def _pread(handle: int, size: int, offset: int) -> bytes:
    """Read `size` bytes with repeated `os.pread`, which returns at most 2 GiB, less on some network file systems."""
    data = os.pread(handle, size, offset)
    while len(data) < size and (more := os.pread(handle, size - len(data), offset + len(data))):
        data += more
    return data


def _top_level(path: Path) -> str:
    tops = sorted({name.split("/")[0] for name in zip_members(path)})
    return ", ".join(tops[:5]) + (", ..." if len(tops) > 5 else "") if tops else "nothing"
