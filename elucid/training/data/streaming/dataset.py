"""A dataset in shards, larger than the disk if they lie in a store."""

import json
import os
import weakref

import numpy as np

from elucid.dnnlib.errors import UserError, note
from elucid.training.data import cache_entries, npy
from elucid.training.data.arrays.form import are_arrays
from elucid.training.data.base import Dataset
from elucid.training.data.dataset import subset
from elucid.training.data.pictures import load_picture
from elucid.training.data.streaming.description import CLASSES, VECTORS
from elucid.training.data.streaming.held import HeldShards
from elucid.training.data.streaming.sources import LocalShards, open_source
from elucid.training.data.streaming.tar import OpenShard

_MODES = {1: "L", 3: "RGB"}


class ShardDataset(Dataset):
    """Images, arrays or latents in shards that `dataset_tool.py shards` wrote: a folder, or an address in a store.

    Those in a store are fetched when they are needed, and kept in the cache, at most ELUCID_CACHE_GB. Training permutes
    the shards, and the images of `window` shards at a time. `max_size` selects a random subset determined by `seed`.
    Raises UserError naming the shard that is missing or damaged.
    """

    has_names = False  # but in the shards, all of which would have to be read

    def __init__(
        self,
        path: str | os.PathLike,
        use_labels: bool = False,
        max_size: int | None = None,
        seed: int = 0,
        window: int = 16,
    ):
        if window < 1:
            raise UserError(f"dataset.reader.window={window} must be at least 1")
        self._source = open_source(path)
        self._about = about = self._source.description
        self.path, self.use_labels, self.shard_window = self._source.path, use_labels, window
        self.name = self.path.rpartition("/")[2]
        self.resolution, self.channels, self.dtype = about.resolution, about.channels, np.dtype(about.dtype)
        self.arrays, self.class_names = about.encoder if are_arrays(about.encoder) else None, about.class_names
        self.encoder = None if self.arrays is not None else about.encoder
        self.shuffled, self._ends = about.shuffled, np.cumsum(about.sizes)
        self._where = subset(int(self._ends[-1]), max_size, seed)
        self.shard_sizes = about.sizes
        if self._where is not None:
            shards = np.searchsorted(self._ends, self._where, side="right")
            self.shard_sizes = np.bincount(shards, minlength=len(about.sizes)).tolist()
        self._count = sum(self.shard_sizes)
        self._held = HeldShards(self._source.open, 2 * window)
        weakref.finalize(self, self._held.close)
        if use_labels:
            self._require_labels()
        self._room = self._room_for()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        height, width = self.resolution
        content = (
            f"{len(self)} {self.kind} in {len(self.shard_sizes)} shards, {height}x{width}, {self.channels} channels"
        )
        return f"<{type(self).__name__} {self.path}: {content}>"

    @property
    def has_labels(self) -> bool:
        """Whether the shards have labels, used or not."""
        return self._about.labels is not None

    @property
    def label_dim(self) -> int:
        """Number of classes, or width of vector labels; 0 if labels are not used."""
        return self._about.labels.dim if self.use_labels else 0

    @property
    def vector_labels(self) -> bool:
        """Whether labels are used and are vectors."""
        return self.use_labels and self._about.labels is not None and self._about.labels.kind == VECTORS

    @property
    def class_counts(self) -> list[int] | None:
        """Number of images of each class; None if labels are not used or are vectors, or of a subset."""
        return self._about.labels.counts if self.use_labels and self._where is None else None

    @property
    def sums(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Sums of values and squares of each channel over all images; None for a subset."""
        if self._where is not None:
            return None
        return np.array(self._about.total), np.array(self._about.squares)

    def expect(self, now: list[int], later: list[int]) -> None:
        self._held.expect(now[: self._room], later[: max(self._room - len(now), 0)])

    def image_name(self, index: int) -> str:
        """Return the shard and name of an image."""
        shard, number, place = self._found(index)
        return f"{self._about.shards[number].name}/{shard.name(place)}"

    def encoded(self, index: int) -> bytes:
        """Return the stored file of an image."""
        shard, _, place = self._found(index)
        return shard.encoded(place)

    def image(self, index: int) -> np.ndarray:
        """Return an image [C,H,W] of the dtype of the dataset. Raises UserError naming one that is damaged."""
        shard, number, place = self._found(index)
        name = f"{self.path}/{self._about.shards[number].name}/{shard.name(place)}"
        data = shard.encoded(place)
        if name.endswith(npy.SUFFIX):
            array = npy.from_npy(data, name, npy.ARRAYS if self.arrays is not None else "latent")
        else:
            picture = load_picture(data, name)
            if picture.mode != _MODES.get(self.channels):
                raise UserError(
                    f"{name} is {picture.mode}, others have {self.channels} channels; write the shards again"
                )
            pixels = np.array(picture)
            array = pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
        if array.shape != (self.channels, *self.resolution) or array.dtype != self.dtype:
            raise UserError(f"{name} differs from shards.json in size or type; write the shards again")
        return array

    def label(self, index: int) -> np.ndarray:
        if not self.use_labels:
            return np.zeros(0, dtype=np.float32)
        about = self._about.labels
        shard, number, place = self._found(index)
        text = shard.label(place)
        vector = np.zeros(about.dim, dtype=np.float32)
        try:
            if text is not None and about.kind == CLASSES:
                if (value := int(text)) < 0:
                    raise ValueError(f"class {value}")
                vector[value] = 1
            elif text is not None:
                vector[:] = np.array(json.loads(text), dtype=np.float32).reshape(about.dim)
            if not np.isfinite(vector).all():
                raise ValueError("numbers that are not finite")
        except (ValueError, TypeError, IndexError, RecursionError, OverflowError) as error:
            name = f"{self.path}/{self._about.shards[number].name}/{shard.name(place)}"
            raise UserError(f"the label of {name} is wrong ({error}); write the shards again") from error
        return vector

    def _found(self, index: int) -> tuple[OpenShard, int, int]:
        """Return the open shard of an image, its number, and the image's position in it."""
        position = index if self._where is None else int(self._where[index])
        number = int(np.searchsorted(self._ends, position, side="right"))
        try:
            shard = self._held.get(number)
        except cache_entries.NoRoom as error:
            name = self._about.shards[number].name
            raise UserError(f"{self.path}/{name} cannot be kept in the cache: {error}") from error
        return shard, number, position - int(self._ends[number]) + len(shard)

    def _require_labels(self) -> None:
        labels = self._about.labels
        if labels is None:
            raise UserError(f"{self.path} has no labels, which `cond`=1 needs; train with `cond`=0")
        if labels.missing:
            raise UserError(
                f"{labels.missing} images in {self.path} have no label, which `cond`=1 needs; drop them with "
                "dataset_tool.py --unlabelled=drop and write the shards again, or train with `cond`=0"
            )

    def _room_for(self) -> int:
        """Return the number of shards that the cache has room for; a note says so if training needs more."""
        if isinstance(self._source, LocalShards):
            return len(self.shard_sizes)
        limit, sizes = cache_entries.limit(), sorted((shard.bytes for shard in self._about.shards), reverse=True)
        if sizes[0] > limit:
            raise UserError(
                f"{self.path}: ELUCID_CACHE_GB={limit / cache_entries.GB:g} has no room for a shard of "
                f"{sizes[0] / cache_entries.GB:.3g} GB; raise it"
            )
        wanted = sum(sizes[: 2 * self.shard_window])
        if wanted > limit:
            gigabytes = cache_entries.GB
            note(
                f"{self.path}: training reads {2 * self.shard_window} shards at a time, {wanted / gigabytes:.2f} GB, "
                f"more than ELUCID_CACHE_GB={limit / gigabytes:g}, so that shards are fetched again and again; raise "
                "it, or lower dataset.reader.window"
            )
        return int(np.searchsorted(np.cumsum(sizes), limit, side="right"))
