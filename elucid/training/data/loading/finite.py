"""Refuses values that are not finite, before they reach the network."""

import numpy as np

from elucid.dnnlib.errors import UserError


def require_finite(arrays: np.ndarray, dataset, indices: np.ndarray) -> np.ndarray:
    """Return arrays [B,C,H,W] of a dataset. Raises UserError naming the first value that is NaN or infinite."""
    if arrays.dtype.kind != "f" or getattr(dataset, "arrays", None) is None or np.isfinite(arrays).all():
        return arrays
    place, channel, row, column = (int(axis[0]) for axis in np.nonzero(~np.isfinite(arrays)))
    index = int(indices[place])
    name = getattr(dataset, "image_name", str)(index)
    raise UserError(
        f"{dataset.path}/{name} has {arrays[place, channel, row, column]:g} in channel {channel}, row {row}, column "
        f"{column}; convert the arrays with dataset_tool.py --missing=drop, mean or a number"
    )
