"""Opens images or arrays of any channels: files, data sets, or arrays in memory; and reads them one after another."""

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError, did_you_mean
from elucid.dnnlib.in_threads import in_threads
from elucid.metrics.images import Images
from elucid.training.data.dataset import open_dataset

Given = str | os.PathLike | np.ndarray | Images
"""A folder, zip or npz file, an array [N,C,H,W], or a data set."""


@dataclass(frozen=True)
class Opened:
    """Images [C,H,W] in their own units; `what` is the argument that gave them, for messages.

    Of the `channels` [c] that are chosen, `names` are the names, or numbers if the data set has none, and `labels` the
    same with their units.
    """

    what: str
    path: str
    images: Images
    shape: tuple[int, int, int]
    dtype: np.dtype
    channels: tuple[int, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def chosen_shape(self) -> tuple[int, int, int]:
        return (len(self.channels), *self.shape[1:])

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""
        name = getattr(self.images, "image_name", None)
        return f"{self.path}/{name(index)}" if name else f"{self.path}[{index}]"

    def image(self, index: int) -> np.ndarray:
        """Return the chosen channels of an image. Raises UserError for another shape, and NaN or infinity."""
        image = np.asarray(self.images.image(index))
        if image.shape != self.shape:
            raise UserError(
                f"`{self.what}`: {self.name(index)} has shape {list(image.shape)}, others {list(self.shape)}"
            )
        image = image if len(self.channels) == len(image) else image[list(self.channels)]
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            channel, row, column = map(int, np.argwhere(~np.isfinite(image))[0])
            value, place = image[channel, row, column], f"channel {self.names[channel]}, row {row}, column {column}"
            raise UserError(f"`{self.what}`: {self.name(index)} has {value} at {place}; repair it or leave it out")
        return image

    def stream(self, indices: Iterable[int], workers: int | None = None) -> Generator[np.ndarray, None, None]:
        """Return images in order, read in threads; few more than `workers` wait in memory."""
        workers = workers or os.cpu_count() or 1
        return in_threads(self.image, indices, workers, workers)


def open_images(given: Given, what: str, channels: str | Sequence[str | int] | None = None) -> Opened:
    """Open images. Raises UserError naming `what`, the argument, if they are none or lack a channel."""
    path = "array"
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        images: Any = open_dataset(path, arrays=True)
    elif isinstance(given, np.ndarray):
        images = Stacked(given)
    elif hasattr(given, "image") and hasattr(given, "__len__"):
        images, path = given, str(getattr(given, "path", "data set"))
    else:
        raise UserError(
            f"`{what}` is of type {type(given).__name__}; give a folder, a zip, an npz or an array [N,C,H,W]"
        )
    if isinstance(images, Stacked) and (images.array.ndim != 4 or images.array.dtype.kind not in "fui"):
        shape, kind = list(images.array.shape), images.array.dtype
        raise UserError(f"`{what}`: {path} is {kind} of shape {shape}; give numbers [N,C,H,W]")
    if not len(images):
        raise UserError(f"`{what}`: {path} holds no images; give at least one")
    first = np.asarray(images.image(0))
    names, labels = described(images, len(first))
    chosen = choose(names, channels, path)
    own = (tuple(texts[one] for one in chosen) for texts in (names, labels))
    return Opened(what, path, images, first.shape, first.dtype, chosen, *own)


@dataclass(frozen=True)
class Stacked:
    """An array [N,C,H,W] as images."""

    array: np.ndarray

    def __len__(self) -> int:
        return len(self.array)

    def image(self, index: int) -> np.ndarray:
        return self.array[index]


def described(images: Images, count: int) -> tuple[list[str], list[str]]:
    """Return the names of channels, and the names with units.

    They are what a data set of arrays says, else of pictures gray or R, G, B, else numbers from 0.
    """
    known = getattr(images, "arrays", None)
    about = known if isinstance(known, dict) else {}
    names = about.get("channel_names") or getattr(images, "channel_names", None)
    if names is None and known is None and getattr(images, "dtype", None) == np.uint8 and count in (1, 3):
        names = ["gray"] if count == 1 else ["R", "G", "B"]
    units = about.get("units")
    names = [str(one) for one in (names if names is not None and len(names) == count else range(count))]
    units = units if units is not None and len(units) == count else [""] * count
    return names, [f"{name} [{unit}]" if unit else name for name, unit in zip(names, units, strict=True)]


def choose(names: Sequence[str], channels: str | Sequence[str | int] | None, path: str) -> tuple[int, ...]:
    """Return the places of channels given by name or number from 0, as `t2m,u10` or a list; all for None."""
    if channels is None:
        return tuple(range(len(names)))
    parts = [part.strip() for part in channels.split(",")] if isinstance(channels, str) else list(channels)
    found = []
    for part in map(str, parts):
        if part in names:
            found.append(names.index(part))
        elif part.isdecimal() and int(part) < len(names):
            found.append(int(part))
        else:
            raise UserError(
                f"`channels`: {path} has no channel {part!r}{did_you_mean(part, names)}; it has {', '.join(names)}"
            )
    if not found or len(set(found)) < len(found):
        raise UserError(f"`channels`={','.join(map(str, parts))} must name at least one channel, and each once")
    return tuple(found)


def open_pair(
    samples: tuple[str, Given], real: tuple[str, Given], channels: str | Sequence[str | int] | None
) -> tuple[Opened, Opened]:
    """Open samples and real images, each given with its argument; channels have the names of the real ones.

    Raises UserError if they are not alike.
    """
    named = open_images(real[1], real[0], channels)
    others = open_images(samples[1], samples[0], None if channels is None else named.channels)
    require_alike(others, named)
    return replace(others, names=named.names, labels=named.labels), named


def require_alike(first: Opened, second: Opened) -> None:
    """Raise UserError if two sets differ in channels or size."""
    if first.shape != second.shape:
        ours, theirs = ("x".join(map(str, one.shape)) for one in (first, second))
        raise UserError(
            f"`{first.what}`: {first.path} has {ours} (channels, height, width), `{second.what}`: {second.path} has "
            f"{theirs}; prepare both alike"
        )
