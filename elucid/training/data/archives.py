"""Uniform access to the files of a folder or zip, by position; safe with threads and after a fork."""

import hashlib
import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from elucid.dnnlib.errors import UserError, note
from elucid.dnnlib.reading import limits
from elucid.dnnlib.reading.regular import read_regular, regular_files
from elucid.dnnlib.reading.zips import zip_members
from elucid.dnnlib.remote.hub import hub_data, is_hub
from elucid.training.data.pictures import is_picture

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of the name and the extra field


class FileSet(ABC):
    """The files of a folder or zip. `names` are sorted, relative, with forward slashes, without hidden files."""

    path: str
    name: str
    names: list[str]

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
    def read(self, index: int, limit: int | None = None) -> bytes:
        """Return a file's content, or its first `limit` bytes. Raises UserError if it is corrupt or missing."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hex digest of path, file sizes and modification times, to detect changes."""


def open_files(path: str | os.PathLike) -> FileSet:
    """Open a folder, a zip, or a folder inside a zip (`images.zip/train`). Raises UserError.

    Data sets on a hub, `hf://user/name`, are downloaded. A folder without pictures may hold parquet files.
    """
    from elucid.training.data.parquet import parquet_files  # which derives from what this module defines

    path = hub_data(str(path)) if is_hub(path) else Path(path)
    try:
        if path.is_dir():
            files = FolderFiles(path)
            return files if any(map(is_picture, files.names)) else parquet_files(path, files.names) or files
        if path.suffix == ".parquet" and path.is_file():
            return parquet_files(path, [path.name], path.parent)
        for archive in (path, *path.parents):
            if archive.is_file():
                return ZipFiles(archive, path.relative_to(archive).as_posix().strip("."))
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: no permission ({error.filename}); change its permissions") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    raise UserError(f"{path}: no such file or folder; check the path")


class FolderFiles(FileSet):
    """The files below a folder."""

    def __init__(self, path: Path):
        self.path = str(path)
        self.name = path.resolve().name
        self.names, others = regular_files(self.path)
        if others:
            note(f"{path}: left out {len(others)} pipes, devices or links without a target (first: {others[0]})")

    def read(self, index: int, limit: int | None = None) -> bytes:
        try:
            return read_regular(os.path.join(self.path, self.names[index]), limit)
        except OSError as error:
            raise UserError(f"{self.label_of(index)} cannot be read: {error.strerror}; restore or remove it") from error

    def fingerprint(self) -> str:
        digest = hashlib.sha256(os.fsencode(os.path.abspath(self.path)))
        for name in self.names:
            status = os.stat(os.path.join(self.path, name))
            digest.update(os.fsencode(f"\n{name}:{status.st_size}:{status.st_mtime_ns}"))
        return digest.hexdigest()


class ZipFiles(FileSet):
    """The files of a zip, or of one folder inside it.

    Positioned reads (`pread`) share no file offset, so threads and forked processes need no lock.
    """

    def __init__(self, path: Path, inside: str = ""):
        self.archive = str(path)
        self.path = f"{path}/{inside}" if inside else str(path)
        self.name = f"{path.stem}-{inside.replace('/', '-')}" if inside else path.stem
        members = zip_members(path)
        prefix = f"{inside}/" if inside else ""
        members = {name[len(prefix) :]: info for name, info in members.items() if name.startswith(prefix)}
        if inside and not members:
            raise UserError(f"{path} has no folder {inside!r}; it contains {_top_level(path)}")
        self.names = sorted(members)
        infos = [members[name] for name in self.names]
        # Arrays keep a million entries small, also when they are sent to another process.
        self._offsets = np.array([info.header_offset for info in infos], dtype=np.int64)
        self._sizes = np.array([info.compress_size for info in infos], dtype=np.int64)
        self._lengths = np.array([info.file_size for info in infos], dtype=np.int64)
        self._checksums = np.array([info.CRC for info in infos], dtype=np.uint32)
        self._methods = np.array([-1 if info.flag_bits & 1 else info.compress_type for info in infos], dtype=np.int16)
        self._open()

    def read(self, index: int, limit: int | None = None) -> bytes:
        name, method = self.label_of(index), self._methods[index]
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            why = "encrypted" if method == -1 else "compressed with an unsupported method"
            raise UserError(f"{name} is {why}; create the zip again without that")
        try:
            offset, size, length = int(self._offsets[index]), int(self._sizes[index]), int(self._lengths[index])
            limits.FILE_BYTES.require(length if limit is None else 0, f"{name}: its size")
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(os.pread(self._handle, 30, offset))
            wanted = size if limit is None or method == zipfile.ZIP_DEFLATED else min(limit, size)
            data = _pread(self._handle, wanted, offset + 30 + name_length + extra_length)
            whole = signature == b"PK\x03\x04" and len(data) == wanted
            if method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, limit or length + 1)
        except (OSError, struct.error, zlib.error) as error:
            raise UserError(f"{name} cannot be read from the zip: {error}; copy or download the zip again") from error
        if not whole or (limit is None and zlib.crc32(data) != self._checksums[index]):
            raise UserError(f"{name} is damaged (its checksum is wrong); copy or download the zip again")
        return data

    def fingerprint(self) -> str:
        status = os.stat(self.archive)
        return hashlib.sha256(
            os.fsencode(f"{os.path.abspath(self.path)}:{status.st_size}:{status.st_mtime_ns}")
        ).hexdigest()

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


def _pread(handle: int, size: int, offset: int) -> bytes:
    """Read `size` bytes with repeated `os.pread`, which returns at most 2 GiB, less on some network file systems."""
    data = os.pread(handle, size, offset)
    while len(data) < size and (more := os.pread(handle, size - len(data), offset + len(data))):
        data += more
    return data


def _top_level(path: Path) -> str:
    tops = sorted({name.split("/")[0] for name in zip_members(path)})
    return ", ".join(tops[:5]) + (", ..." if len(tops) > 5 else "") if tops else "nothing"
