"""Attributes that say how stored values are meant, by the conventions of netCDF."""

from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError

_PACKED = {"scale_factor": 1, "add_offset": 0}


def fill_of(attributes: dict[str, Any], dtype: np.dtype, where: str) -> float | None:
    """Return the finite number that stands for a missing value in an array of floats; None if there is none.

    Raises UserError for packed values, which stand for others, and for such a number in an array of integers.
    """
    packed = [name for name, plain in _PACKED.items() if not _is(attributes.get(name, plain), plain)]
    if packed:
        raise UserError(
            f"{where} has packed values (its attribute {packed[0]}), which stand for others; unpack it, e.g. with "
            "xarray, and store float32"
        )
    given = next((attributes[name] for name in ("_FillValue", "missing_value") if name in attributes), None)
    value = _number(given)
    if value is None or not np.isfinite(value):
        return None
    if dtype.kind != "f":
        raise UserError(
            f"{where} says that {value:g} stands for a missing value, which {dtype} has no other sign for; store "
            "float32 with NaN, or remove its attribute _FillValue"
        )
    return value


def channels_of(attributes: dict[str, Any], channels: int) -> dict[str, Any]:
    """Return what attributes say of `channels`, as `arrays.form` has it: `mean` and `std`, `channel_names`, `units`.

    Those that are no lists of one entry for each are of something else, and left out.
    """
    found = {name: np.asarray(attributes[name]).tolist() for name in ("mean", "std") if name in attributes}
    found |= {name: texts(attributes.get(name)) for name in ("channel_names", "units")}
    found = {name: one for name, one in found.items() if isinstance(one, list) and len(one) == channels}
    return found if ("mean" in found) == ("std" in found) else {}


def texts(value: Any) -> list[str] | None:
    """Return an attribute that is a list of texts; None if it is none."""
    if value is None or isinstance(value, (str, bytes)) or not np.iterable(value):
        return None
    return [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in value]


def _is(value: Any, wanted: float) -> bool:
    return _number(value) == wanted


def _number(value: Any) -> float | None:
    try:
        flat = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
    return float(flat[0]) if len(flat) == 1 else None
