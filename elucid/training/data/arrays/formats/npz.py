"""Arrays in `.npy` and `.npz` files: read in place where they are not compressed."""

import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits
from elucid.dnnlib.reading.zips import zip_members
from elucid.training.data.arrays.formats.npy_header import NpyHeader, npy_header
from elucid.training.data.arrays.formats.stored import MemoryArray, PlainArray, StoredArray, chosen, failures

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of the name and the extra field


def open_npy(file: Path, inside: str, labels: str, largest: int) -> StoredArray:
    """Open a `.npy` file. Raises UserError."""
    if inside:
        raise UserError(f"{file} is one array and has no {inside}; give {file}")
    with failures(str(file)), open(file, "rb") as opened:
        header = npy_header(opened, str(file))
    return PlainArray(file, str(file), header.offset, header.shape, header.dtype)


def open_npz(file: Path, inside: str, labels: str, largest: int) -> StoredArray:
    """Open a member of an `.npz` file, by default the only one besides its labels.

    One that is compressed is decompressed into memory if it has at most `largest` bytes. Raises UserError.
    """
    with failures(str(file)):
        members = {name.removesuffix(".npy"): info for name, info in zip_members(file).items() if name.endswith(".npy")}
    if inside not in members:
        found = {name: _header(file, info).shape for name, info in members.items() if name != labels}
        if inside:
            listed = ", ".join([*found][:8]) or "nothing"
            raise UserError(f"{file} has no array {inside}; there is {listed}")
        samples = {name: shape for name, shape in found.items() if len(shape) > 2}
        inside = chosen(samples or (found if len(found) == 1 else {}), [*found], str(file), "")
    info, where = members[inside], f"{file}/{inside}"
    header = _header(file, info)
    size = info.file_size
    if info.compress_type == zipfile.ZIP_STORED:
        array: Any = NpzMember(file, where, _start(file, info) + header.offset, header.shape, header.dtype)
    elif size > largest:
        if largest >= limits.ARRAY_BYTES.value:
            limits.ARRAY_BYTES.require(size, f"{where}: its size")
        raise UserError(
            f"{where} is compressed and has {size} bytes, so that no sample can be read alone; save it with "
            f"numpy.savez, or convert it: dataset_tool.py --source={where} --dest=NAME.zip"
        )
    else:
        array = PackedMember(file, where, _whole(file, info, where))
    array.members = members
    return array


class _Labels:
    """What members of an `.npz` have in common: others beside them."""

    file: Path
    members: dict[str, zipfile.ZipInfo]

    def beside(self, name: str) -> tuple[np.ndarray, Any] | None:
        if name not in self.members:
            return None
        return _whole(self.file, self.members[name], f"{self.file}/{name}"), None


class NpzMember(_Labels, PlainArray):
    """A member that is not compressed."""


class PackedMember(_Labels, MemoryArray):
    """A member that was compressed."""


def _start(file: Path, info: zipfile.ZipInfo) -> int:
    """Return where the content of a member begins. Raises UserError."""
    with failures(str(file), struct.error), open(file, "rb") as opened:
        data = os.pread(opened.fileno(), 30, info.header_offset)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(data)
        if signature != b"PK\x03\x04":
            raise OSError(None, f"the place of {info.filename} is wrong")
    return info.header_offset + 30 + name_length + extra_length


def _header(file: Path, info: zipfile.ZipInfo) -> NpyHeader:
    where = f"{file}/{info.filename}"
    with _reading(where), zipfile.ZipFile(file) as archive, archive.open(info) as member:
        return npy_header(member, where)


def _whole(file: Path, info: zipfile.ZipInfo, where: str) -> np.ndarray:
    """Read a member into memory, up to the limit. Raises UserError."""
    limits.ARRAY_BYTES.require(info.file_size, f"{where}: its size")
    limits.require_ratio(info.file_size, info.compress_size, where)
    with _reading(where), zipfile.ZipFile(file) as archive, archive.open(info) as member:
        header = npy_header(member, where)
        data = member.read(info.file_size)
        wanted = int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
        if len(data) < wanted:
            raise OSError(None, f"it has {len(data)} bytes of {wanted}")
        return np.frombuffer(data, header.dtype, wanted // header.dtype.itemsize).reshape(header.shape)


def _reading(where: str):
    return failures(where, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, struct.error)
