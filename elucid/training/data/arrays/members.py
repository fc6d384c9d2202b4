"""Arrays that are files of a folder or zip, one for each sample: `.npy`, `.npz` with one array, and TIFF."""

import io
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import checksums, limits
from elucid.training.data import npy
from elucid.training.data.archives import FileSet
from elucid.training.data.arrays import tiff
from elucid.training.data.arrays.dtypes import native, require_stored
from elucid.training.data.arrays.formats.npy_header import npy_header
from elucid.training.data.arrays.formats.tiff_header import tiff_header
from elucid.training.data.pictures import is_picture

NPZ = ".npz"
_LOCAL_HEADER = 30  # bytes, before the name and the extra field


def is_array(name: str) -> bool:
    """Return whether a file name has the extension of an array."""
    return name.lower().endswith((npy.SUFFIX, NPZ, *tiff.SUFFIXES))


def holds_arrays(files: FileSet) -> bool:
    """Return whether the files of a folder or zip are arrays, not pictures.

    They are if there are arrays and no pictures but TIFFs, and the first TIFF, if there are only these, has several
    pages or more than 8 bits. Raises UserError if it cannot be read.
    """
    first = None
    for place, name in enumerate(files.names):
        if name.lower().endswith((npy.SUFFIX, NPZ)):
            return not any(is_picture(one) and not _is_tiff(one) for one in files.names)
        if _is_tiff(name):
            first = place if first is None else first
        elif is_picture(name):
            return False
    if first is None:
        return False
    try:
        header = tiff_header(files.read(first), files.label_of(first))
    except UserError:
        return False  # bits that only pictures have, or damage, of which the reader of pictures tells
    return header is not None and not header.picture


def array_header(data: bytes, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """Return shape and dtype of an array from its first bytes; None if they do not suffice, as of most TIFFs.

    128 bytes of a `.npy` and 256 of an `.npz` are enough. Raises UserError if it is damaged.
    """
    if _is_tiff(name):
        header = tiff_header(data, name, whole=False)
        return header and (header.shape, header.dtype)
    if name.lower().endswith(NPZ):
        start = _member_start(data)
        if start is None:
            return None
        data = start
    found = npy_header(io.BytesIO(data), name)
    return (1,) * (3 - len(found.shape)) + found.shape, found.dtype.newbyteorder("=")


def read_array(data: bytes, name: str) -> np.ndarray:
    """Return an array [C,H,W] as training reads it, uint8, uint16, float16 or float32.

    A `.npy` or `.npz` may lack its first axes. Of a `.npz` it is the only array, of a TIFF the planes of all pages.
    Raises UserError naming the file for other dtypes and shapes, and for what is damaged.
    """
    if name.lower().endswith(npy.SUFFIX):
        return npy.from_npy(data, name, npy.ARRAYS)
    array = _from_npz(data, name) if name.lower().endswith(NPZ) else tiff.from_tiff(data, name)
    require_stored(array.dtype, name, name.rpartition("/")[0])
    if not 1 <= array.ndim <= 3:
        raise UserError(f"{name} is {list(array.shape)}; a sample is [C,H,W]")
    return with_axes(array)


def read_any(data: bytes, name: str) -> np.ndarray:
    """Return an array of any real dtype and number of axes, for conversion. Raises UserError naming the file."""
    if _is_tiff(name):
        return tiff.from_tiff(data, name)
    if name.lower().endswith(NPZ):
        return _from_npz(data, name)
    return _values(checksums.content(data, name)[0], name)


def with_axes(array: np.ndarray) -> np.ndarray:
    """Return an array with the first axes that [C,H,W] has and it lacks."""
    return array.reshape((1,) * (3 - array.ndim) + array.shape)


def _is_tiff(name: str) -> bool:
    return name.lower().endswith(tiff.SUFFIXES)


def _values(data: bytes, name: str) -> np.ndarray:
    header = npy_header(io.BytesIO(data), name)
    wanted = int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
    if header.offset + wanted > len(data):
        raise UserError(f"{name} is cut: it has {len(data)} bytes of {header.offset + wanted}; copy it again")
    if not wanted:
        raise UserError(f"{name} is empty, {list(header.shape)}; remove it")
    values = np.frombuffer(data, header.dtype, wanted // header.dtype.itemsize, header.offset)
    return native(values.reshape(header.shape).copy())


def _from_npz(data: bytes, name: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            info = _only(infos, name)
            limits.FILE_BYTES.require(info.file_size, f"{name}: its size")
            limits.require_ratio(info.file_size, len(data), name)
            with archive.open(info) as member:
                inner = member.read(info.file_size)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{name} is not a whole .npz ({error}); replace or remove it") from error
    return _values(inner, name)


def _only(infos: Sequence[zipfile.ZipInfo], name: str) -> zipfile.ZipInfo:
    if len(infos) != 1:
        names = ", ".join(info.filename.removesuffix(npy.SUFFIX) for info in infos[:5]) or "none"
        raise UserError(f"{name} has {len(infos)} arrays ({names}); store the one that is the sample")
    return infos[0]


def _member_start(data: bytes) -> bytes | None:
    """Return the first bytes of the first member of a zip; None if there are not enough."""
    if data[:4] != b"PK\x03\x04" or len(data) < _LOCAL_HEADER:
        return None
    method = int.from_bytes(data[8:10], "little")
    begin = _LOCAL_HEADER + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    start = data[begin:]
    if method == zipfile.ZIP_DEFLATED:
        try:
            start = zlib.decompressobj(-15).decompress(start, 1024)
        except zlib.error:
            return None
    length = 10 + int.from_bytes(start[8:10], "little")  # of the header of a `.npy` of the first version
    return start if len(start) >= max(length, 11) else None
