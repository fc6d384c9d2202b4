"""Dtypes of arrays: which training reads, and which are converted."""

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.training.data.arrays.form import DTYPES

_REAL = {*DTYPES, "bool", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


def require_stored(dtype: np.dtype, where: str, source: str) -> None:
    """Raise UserError, with the command that converts `source`, unless training reads arrays of a dtype."""
    require_real(dtype, where)
    if dtype.name not in DTYPES:
        raise UserError(
            f"{where} is {dtype}, and training reads {', '.join(DTYPES)}; convert it: dataset_tool.py "
            f"--source={source} --dest=NAME.zip"
        )


def require_real(dtype: np.dtype, where: str) -> None:
    """Raise UserError for an array of Python objects, which would be pickles, of texts, structs or complex numbers."""
    if dtype.hasobject:
        raise UserError(f"{where} holds Python objects, which are never loaded; save an array of numbers")
    if dtype.name not in _REAL:
        raise UserError(f"{where} is {dtype}, which is no dtype of images; save it as one of {', '.join(DTYPES)}")


def native(array: np.ndarray) -> np.ndarray:
    """Return an array in the machine's byte order, contiguous; a copy only if needed."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
