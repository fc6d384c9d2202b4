"""The header of a `.npy` file: shape and dtype, without pickle, of a file that may lie."""

from typing import IO, NamedTuple

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.training.data.arrays.dtypes import require_real


class NpyHeader(NamedTuple):
    """What a header says; `offset` is where the values begin."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


def npy_header(file: IO[bytes], where: str) -> NpyHeader:
    """Read a header. Raises UserError for another file, an array of objects, and Fortran order."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version} is not for numbers")
        shape, fortran, dtype = readers[version](file)
        if any(side < 0 for side in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # noqa: BLE001  numpy fails in many ways on damaged headers
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{where} is not a .npy of numbers ({reason}); save it again with numpy.save") from error
    require_real(dtype, where)
    if fortran and len(shape) > 1:
        raise UserError(
            f"{where} is in Fortran order, where a sample is all over the file; save numpy.ascontiguousarray of it"
        )
    return NpyHeader(shape, dtype, file.tell())
