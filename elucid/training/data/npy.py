"""Converts an array to the bytes of a `.npy` file and back, without pickle."""

import io
import json
import math
import os

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import checksums

SUFFIX = ".npy"
DTYPES = ("float16", "float32")
"""Types of stored latents."""

ARRAYS = "array"
"""What `from_npy` is to read if it is not latents."""

_ARRAY_DTYPES = ("uint8", "uint16", *DTYPES)
_NOTE = b"\nelucid-note "


def to_npy(array: np.ndarray, note: dict | None = None) -> bytes:
    """Return an array as a `.npy` file with a checksum, and perhaps a note behind the numbers, see `note_of`.

    Arrays of the same shape and dtype have the same header.
    """
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    if note is not None:
        text = json.dumps(note).encode()
        buffer.write(_NOTE + text + f" {len(text):08x}".encode())
    return checksums.sealed(buffer.getvalue())


def note_of(data: bytes, name: str) -> dict | None:
    """Return the note in a `.npy` file; None if it has none. Raises UserError if the file is damaged."""
    data, _ = checksums.content(data, name)
    try:
        length = int(data[-8:], 16)
        text = data[-9 - length : -9]
        found = json.loads(text) if data[: -9 - length].endswith(_NOTE) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def from_npy(data: bytes, name: str, what: str = "latent") -> np.ndarray:
    """Read [C,H,W] from a `.npy` file: a latent of float16 or float32, or an array, of 8 or 16 bits, too.

    An array may lack its first axis, or the first two. Raises UserError naming the file if it is damaged.
    """
    data, checked = checksums.content(data, name)
    if what == ARRAYS:
        return _read(data, name, _ARRAY_DTYPES, (1, 2, 3), "arrays of 8 or 16 bits or of floats; convert it again")
    if not checked:
        folder = os.path.dirname(name)
        numbered = os.path.basename(folder).isdecimal()  # one of many alike
        checksums.note_missing(f"{os.path.dirname(folder)}/*/*{SUFFIX}" if numbered else f"{folder}/*{SUFFIX}")
    return _read(data, name, DTYPES, (3,), "floats; encode the images again")


def _read(data: bytes, name: str, dtypes: tuple[str, ...], axes: tuple[int, ...], mend: str) -> np.ndarray:
    file, (kind, _, advice) = io.BytesIO(data), mend.partition("; ")
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError("unknown version")
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(file)
        if dtype.name not in dtypes or len(shape) not in axes or min(shape) < 1:
            raise ValueError(f"{dtype} of shape {shape}")
        flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=file.tell())
        array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    except Exception as error:  # noqa: BLE001  numpy fails in many ways on damaged headers
        raise UserError(f"{name} is not a .npy of {kind} [C,H,W] ({error}); {advice}") from error
    native = array.astype(dtype.newbyteorder("="), order="C", copy=True)
    return native.reshape((1,) * (3 - len(shape)) + shape)
