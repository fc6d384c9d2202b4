"""Dtypes of arrays: which are read as they are, and which others become, exactly or rounded when asked."""

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.training.data.arrays.form import DTYPES

_BECOMES = {"bool": "uint8"} | {f"{sign}int{bits}": "float32" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_BECOMES |= {"float64": "float32"} | {name: name for name in DTYPES}


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
    if dtype.name not in _BECOMES:
        raise UserError(f"{where} is {dtype}, which is no dtype of images; save it as one of {', '.join(DTYPES)}")


def native(array: np.ndarray) -> np.ndarray:
    """Return an array in the machine's byte order, contiguous; a copy only if needed."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def target(dtype: np.dtype, asked: str | None = None) -> np.dtype:
    """Return the dtype to store arrays of a dtype in: `asked`, or the smallest of `DTYPES` meant to hold its values.

    float64 and integers become float32, which holds integers up to 2^24; booleans become uint8. Raises UserError for
    an unknown `asked`.
    """
    if asked is not None and asked not in DTYPES:
        raise UserError(f"`dtype`={asked} is unknown; use one of {', '.join(DTYPES)}")
    return np.dtype(asked or _BECOMES[dtype.name])


def cast(array: np.ndarray, asked: str | None, where: str) -> np.ndarray:
    """Return an array in its `target` dtype: without loss if none is asked, rounded to nearest if one is.

    NaN and infinity stay. Raises UserError naming `where` for a value that would change, or, if a dtype is asked, that
    is outside of its range, or NaN in an integer.
    """
    require_real(array.dtype, where)
    wanted = target(array.dtype, asked)
    if wanted == array.dtype:
        return native(array)
    with np.errstate(over="ignore", invalid="ignore"):
        if wanted.kind == "u" and array.dtype.kind == "f" and asked is not None:
            array = np.rint(array)
        result = array.astype(wanted)
        finite = np.isfinite(array)
        if asked is None or wanted.kind == "u":
            # In the wider dtype, where nothing is lost by the comparison.
            wrong = (result.astype(array.dtype) != array) & ~np.isnan(array)
            wrong |= np.isnan(array) & (wanted.kind == "u")
        else:
            wrong = finite & ~np.isfinite(result)
    if wrong.any():
        _refuse(array[wrong].flat[0], wanted, asked, where)
    return result


def _refuse(value: np.generic, wanted: np.dtype, asked: str | None, where: str) -> None:
    if asked is None:
        raise UserError(f"{where} has {value!s}, which {wanted} does not hold exactly; `dtype`={wanted} rounds it")
    mend = "`dtype`=float32 holds more" if wanted != np.float32 else "scale the values"
    raise UserError(f"{where} has {value!s}, which is outside the range of `dtype`={asked}; {mend}")
