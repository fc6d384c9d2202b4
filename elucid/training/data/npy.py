"""One array as the bytes of a `.npy` file, and back, without pickles."""

import io

import numpy as np

from elucid.dnnlib.errors import UserError

SUFFIX = ".npy"
DTYPES = ("float16", "float32")


def to_npy(array: np.ndarray) -> bytes:
    """The file of a float16 or float32 array; arrays of one shape and type have the same first bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes, name: str) -> np.ndarray:
    """The float16 or float32 array [C,H,W] in a file's bytes. Raises UserError naming the file if it is damaged."""
    file = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("its version is unknown")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.name not in DTYPES or fortran or len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"{dtype} of shape {shape}")
        return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape).copy()
    except (ValueError, TypeError, SyntaxError) as error:
        raise UserError(f"{name} is no .npy of floats [C,H,W] ({error}); encode the images again") from error
