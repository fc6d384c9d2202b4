"""Opens images or arrays of any channels: files, data sets, or arrays in memory; and reads them one after another."""

import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError, did_you_mean
from elucid.metrics.images import Images
from elucid.training.data.dataset import open_dataset

Given = str | os.PathLike | np.ndarray | Images
"""A folder, zip or npz file, an array [N,C,H,W], or a data set."""


@dataclass(frozen=True)
class Opened:
    """Images [C,H,W] in their own units; `what` is the argument that gave them, for messages.

    Of the `channels` [c] that are chosen, `names` are the names, or numbers if the data set has none.
    """

    what: str
    path: str
    images: Images
    shape: tuple[int, int, int]
    dtype: np.dtype
    channels: tuple[int, ...]
    names: tuple[str, ...]

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
        """Yield images in order, read in threads; few more than `workers` wait in memory."""
        workers = workers or os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque = deque()
            try:
                for index in indices:
                    waiting.append(pool.submit(self.image, index))
                    if len(waiting) > workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:  # on a damaged image, do not read the rest
                pool.shutdown(cancel_futures=True)


def open_images(given: Given, what: str, channels: str | Sequence[str | int] | None = None) -> Opened:
    """Open images. Raises UserError naming `what`, the argument, if they are none or lack a channel."""
    path = "array"
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        images: Any = Stacked(_read_npz(path, what)) if Path(path).suffix == ".npz" else open_dataset(path)
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
    names = channel_names(images, len(first))
    chosen = choose(names, channels, path)
    return Opened(what, path, images, first.shape, first.dtype, chosen, tuple(names[one] for one in chosen))


@dataclass(frozen=True)
class Stacked:
    """An array [N,C,H,W] as images."""

    array: np.ndarray

    def __len__(self) -> int:
        return len(self.array)

    def image(self, index: int) -> np.ndarray:
        return self.array[index]


def _read_npz(path: str, what: str) -> np.ndarray:
    """Return the only array of an npz file, or that called `samples`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            name = "samples" if "samples" in names else names[0] if len(names) == 1 else None
            found = None if name is None else arrays[name]
    except Exception as error:  # noqa: BLE001  numpy and zipfile fail in many ways on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"`{what}`: {path} is not a readable npz file ({reason}); write it again") from error
    if found is None:
        raise UserError(f"`{what}`: {path} has the arrays {', '.join(names)}; call the one to use `samples`")
    return found


def channel_names(images: Images, count: int) -> list[str]:
    """Return the names of the channels that a data set has, else of pictures gray or R, G, B, else numbers from 0."""
    names = getattr(images, "channel_names", None)
    if names is not None and len(names) == count:
        return [str(name) for name in names]
    if getattr(images, "dtype", None) == np.uint8 and count in (1, 3) and not isinstance(images, Stacked):
        return ["gray"] if count == 1 else ["R", "G", "B"]
    return [str(index) for index in range(count)]


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


def require_alike(first: Opened, second: Opened) -> None:
    """Raise UserError if two sets differ in channels or size."""
    if first.shape != second.shape:
        ours, theirs = ("x".join(map(str, one.shape)) for one in (first, second))
        raise UserError(
            f"`{first.what}`: {first.path} has {ours} (channels, height, width), `{second.what}`: {second.path} has "
            f"{theirs}; prepare both alike"
        )
