"""Converts an array to the bytes of a `.npy` file and back, without pickle."""

import io
import os

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import checksums

SUFFIX = ".npy"
DTYPES = ("float16", "float32")


def to_npy(array: np.ndarray) -> bytes:
    """Return a float16 or float32 array as a `.npy` file with a checksum.

    Arrays of the same shape and dtype have the same header.
    """
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return checksums.sealed(buffer.getvalue())


def from_npy(data: bytes, name: str) -> np.ndarray:
    """Read a float16 or float32 array [C,H,W] from a `.npy` file. Raises UserError naming the file if it is damaged."""
    data, checked = checksums.content(data, name)
    if not checked:
        folder = os.path.dirname(name)
        numbered = os.path.basename(folder).isdecimal()  # one of many alike
        checksums.note_missing(f"{os.path.dirname(folder)}/*/*{SUFFIX}" if numbered else f"{folder}/*{SUFFIX}")
    file = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("unknown version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.name not in DTYPES or fortran or len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"{dtype} of shape {shape}")
        return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape).copy()
    except Exception as error:  # noqa: BLE001  numpy fails in many ways on damaged headers
        raise UserError(f"{name} is not a .npy of floats [C,H,W] ({error}); encode the images again") from error
