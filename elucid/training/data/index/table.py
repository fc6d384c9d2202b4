"""Named arrays in one file, which is mapped: a `.npy` of bytes with a JSON header, then its checksum.

The bytes are the length of the header in 8 bytes, the header {"facts", "arrays": {name: [dtype, shape, place]}}, and
the arrays, each at a multiple of 64.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import checksums
from elucid.dnnlib.reading.json_text import parse_json

_ALIGNED = 64
_LONGEST = 1 << 30  # bytes of a header


def size_of(arrays: dict[str, np.ndarray]) -> int:
    """Return the bytes that a table of these arrays takes, without its header."""
    return sum(_padded(array.nbytes) for array in arrays.values())


def write_table(file: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write a file. Raises OSError."""
    header = _header(facts, arrays)
    places = json.loads(header)["arrays"]
    size = max([place + arrays[name].nbytes for name, (_, _, place) in places.items()], default=8 + len(header))
    with open(file, "wb+") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
        origin = handle.tell()
        handle.write(len(header).to_bytes(8, "little") + header)
        for name, array in arrays.items():
            handle.seek(origin + places[name][2])
            handle.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        handle.truncate(origin + size)
        checksums.seal(handle)
        handle.flush()
        os.fsync(handle.fileno())


def read_table(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the facts of a file and its arrays, mapped read-only. Raises UserError or OSError if it is damaged."""
    if not checksums.verify(file):
        raise UserError(f"{file} has no checksum")
    data = np.load(file, mmap_mode="r", allow_pickle=False)
    if data.dtype != np.uint8 or data.ndim != 1 or len(data) < 8:
        raise UserError(f"{file} is no table")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(_LONGEST, len(data) - 8):
        raise UserError(f"{file} is no table")
    try:
        header = parse_json(data[8 : 8 + length].tobytes(), str(file), files=length // 1000)
        arrays = {name: _view(data, *spec) for name, spec in header["arrays"].items()}
        return dict(header["facts"]), arrays
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is no table ({error})") from error


def set_fact(file: Path, name: str, value: Any) -> None:
    """Change a fact, which may not make the header longer, in place. Raises OSError.

    Who reads the file in between finds its checksum wrong.
    """
    with open(file, "rb+") as handle:
        np.lib.format.read_magic(handle)
        np.lib.format.read_array_header_1_0(handle)
        origin = handle.tell()
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
        header["facts"][name] = value
        changed = json.dumps(header).encode()
        if len(changed) > length:
            raise OSError(f"{file}: no room for {name}")
        handle.seek(-checksums.SIZE, os.SEEK_END)
        handle.truncate()
        handle.seek(origin + 8)
        handle.write(changed.ljust(length))
        checksums.seal(handle)


def _view(data: np.ndarray, dtype: str, shape: list[int], place: int) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.hasobject or place < 0 or min(shape, default=0) < 0:
        raise ValueError(dtype)
    # A plain array on the mapped memory: a `memmap` would make a view object of each element that is read.
    return np.frombuffer(data, kind, count=int(np.prod(shape)), offset=place).reshape(shape)


def _header(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Return the header, whose own length moves the arrays."""
    length = 0
    while True:
        places, place = {}, _padded(8 + length)
        for name, array in arrays.items():
            places[name] = [array.dtype.str, list(array.shape), place]
            place += _padded(array.nbytes)
        header = json.dumps({"facts": facts, "arrays": places}).encode()
        if len(header) <= length:
            return header.ljust(length)
        length = len(header)


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
