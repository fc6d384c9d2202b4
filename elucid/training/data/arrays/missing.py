"""Values that are not finite in arrays: where the first one is, and how many there are."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from elucid.dnnlib.errors import UserError


class Place(NamedTuple):
    """The place of a value in a sample [C,H,W], counted from 0, and the value: nan, inf or -inf."""

    channel: int
    row: int
    column: int
    value: float


def first_missing(array: np.ndarray) -> Place | None:
    """Return the place of the first value of [C,H,W] that is NaN or infinite, in the order of memory; None if none."""
    if array.dtype.kind != "f":
        return None
    bad = ~np.isfinite(array)
    if not bad.any():
        return None
    channel, row, column = (int(one) for one in np.unravel_index(int(bad.argmax()), array.shape))
    return Place(channel, row, column, float(array[channel, row, column]))


def require_finite(array: np.ndarray, dataset, index: int) -> np.ndarray:
    """Return a sample [C,H,W] of a dataset. Raises UserError naming its first value that is NaN or infinite."""
    place = first_missing(array)
    if place is None:
        return array
    name = getattr(dataset, "image_name", str)(index)
    raise UserError(
        f"{dataset.path}: {name} has {place.value:g} in channel {place.channel}, row {place.row}, column "
        f"{place.column}; remove it, or convert the arrays with dataset_tool.py --missing=drop, mean or a number"
    )


def finite_image(dataset, index: int) -> np.ndarray:
    """Return a sample of a dataset. Raises UserError like `require_finite`."""
    return require_finite(dataset.image(index), dataset, index)


def finite_batch(arrays: np.ndarray, dataset, indices: np.ndarray) -> np.ndarray:
    """Return samples [B,C,H,W] of a dataset, of which only arrays of floats are looked at. Raises UserError, too."""
    if arrays.dtype.kind == "f" and getattr(dataset, "arrays", None) is not None and not np.isfinite(arrays).all():
        for array, index in zip(arrays, indices.tolist(), strict=True):
            require_finite(array, dataset, index)
    return arrays


def count_missing(array: np.ndarray) -> np.ndarray:
    """Return how many values of each channel of [C,H,W] are NaN or infinite, int64 [C]."""
    if array.dtype.kind != "f":
        return np.zeros(len(array), np.int64)
    return np.count_nonzero(~np.isfinite(array), axis=(1, 2)).astype(np.int64)


@dataclass
class MissingValues:
    """Counts values that are not finite, over samples: by channel, samples that have any, and the first place."""

    samples: int = 0
    per_channel: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    first: tuple[str, Place] | None = None

    def add(self, name: str, array: np.ndarray) -> int:
        """Count those of a sample [C,H,W], and return their number."""
        found = count_missing(array)
        self.per_channel = found + self.per_channel if len(self.per_channel) else found
        total = int(found.sum())
        self.samples += total > 0
        if total and self.first is None:
            place = first_missing(array)
            assert place is not None  # since some are
            self.first = name, place
        return total

    @property
    def total(self) -> int:
        return int(self.per_channel.sum())

    def line(self) -> str:
        """Return a text with the counts, the channels, and the first place; "" if there are none."""
        if self.first is None:
            return ""
        name, place = self.first
        channels = [str(one) for one in np.flatnonzero(self.per_channel)]
        more = ", ..." if len(channels) > 5 else ""
        return (
            f"{self.total} values of {self.samples} samples are not finite (channels {', '.join(channels[:5])}{more}; "
            f"first: {name}, channel {place.channel}, row {place.row}, column {place.column}: {place.value:g})"
        )
