"""Datasets on disk: a zip or folder in StyleGAN format with images, arrays or stored latents, and labels."""

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.training.data import npy
from elucid.training.data.archives import FileSet
from elucid.training.data.arrays.form import are_arrays
from elucid.training.data.folders import find_labels
from elucid.training.data.index.opening import note_checked, opened
from elucid.training.data.labels import LabelledDataset
from elucid.training.data.latents import note_recognised, stored_by
from elucid.training.data.pictures import header, is_picture, load_picture

_CHANNELS = {"L": 1, "RGB": 3}
HEADER_BYTES = 128  # of a .npy file
_AT_ONCE = 4096  # images whose headers are read between two looks at the progress


def open_dataset(
    path: str | os.PathLike,
    *,
    use_labels: bool = False,
    max_size: int | None = None,
    seed: int = 0,
    check: bool = True,
    latents: bool = False,
    arrays: bool = False,
) -> "ImageDataset":
    """Open a zip or folder of images; a folder inside a zip is `images.zip/train`.

    Labels come from its `dataset.json`, or else from its top-level folders, one per class. `max_size` selects a random
    subset determined by `seed`. `check` reads the headers of all images to find one of another size or mode before
    training. `latents` allows stored latents, and `arrays` arrays that are no pictures, in `.npy` files. Of a large
    dataset an index is made once and kept in the cache; it also notes that the headers were checked. Raises UserError.
    """
    from elucid.training.data.arrays.tables import ArrayTable, table_at  # which derive from what this module defines
    from elucid.training.data.streaming.sources import is_sharded

    if is_sharded(path):
        raise UserError(f"{path} is not on this disk, or in shards, which train.py --data reads; give a zip or folder")
    if table_at(path) is not None:
        if not arrays:
            raise UserError(f"{path} holds arrays, not pictures; give pictures, or what takes arrays")
        return ArrayTable(path, use_labels, max_size, seed)  # type: ignore[return-value]
    with opened(path, check) as source:
        encoder = stored_by(source) if source.index is None else source.index.encoder
        if are_arrays(encoder):
            if not arrays:
                raise UserError(f"{source.path} holds arrays, not pictures; give pictures, or what takes arrays")
            from elucid.training.data.arrays.dataset import ArrayDataset  # which derives from what this module defines

            dataset: ImageDataset = ArrayDataset(source, use_labels, max_size, seed)
            dataset.arrays, encoder = encoder, None
        else:
            if encoder is not None and not latents:
                raise UserError(f"{source.path} holds latents, not images; give the original images")
            if encoder is not None:
                note_recognised(source.path, encoder)
            dataset = (ImageDataset if encoder is None else LatentDataset)(source, use_labels, max_size, seed)
        dataset.encoder = encoder
        if check and (source.index is None or not source.index.checked):
            dataset.check_headers()
            if source.index is not None and len(dataset) == dataset.num_images:
                note_checked(source.index)
    return dataset


class ImageDataset(LabelledDataset):
    """Images in the order of their sorted names. Can be read from threads, pickled, and used after a fork."""

    def __init__(self, source: FileSet, use_labels: bool = False, max_size: int | None = None, seed: int = 0):
        self._files = source
        self.path, self.name, self.use_labels = source.path, source.name, use_labels
        where = self._items() if source.index is None else source.index.where
        if not len(where):
            raise UserError(f"{self.path} contains no images; give a zip or folder made with dataset_tool.py")
        if source.index is None:
            labels = find_labels(source, [source.names[i] for i in where]).labels
        else:
            labels = source.index.labels
        self.num_images = len(where)  # in the file; len() counts the subset
        kept = subset(len(where), max_size, seed)
        self._where = where if kept is None else where[kept]
        self._labels = labels if kept is None or labels is None else labels.select(kept)
        self._subset = "all" if kept is None else f"{max_size}:{seed}"
        self.resolution, self.channels, self.dtype = self._measure()
        if use_labels:
            self._require_labels()

    def _items(self) -> np.ndarray:
        return np.array([i for i, name in enumerate(self._files.names) if self._is_item(name)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._where)

    def __repr__(self) -> str:
        height, width = self.resolution
        labels = "no labels" if self._labels is None else f"{self._labels.dim} classes"
        if self._labels is not None and not self._labels.are_classes:
            labels = f"label vectors of width {self._labels.dim}"
        content = f"{len(self)} {self.kind}, {height}x{width}, {self.channels} channels"
        return f"<{type(self).__name__} {self.path}: {content}, {labels}>"

    @property
    def fingerprint(self) -> str:
        """Return a hex digest of path, size, modification time and subset, e.g. as a cache key."""
        return hashlib.sha256(f"v1:{self._files.fingerprint()}:{self._subset}".encode()).hexdigest()[:32]

    def image_name(self, index: int) -> str:
        """Return the name of an image in the zip or folder."""
        return self._files.names[self._where[index]]

    def encoded(self, index: int) -> bytes:
        """Return the stored image file."""
        return self._files.read(self._where[index])

    def image(self, index: int) -> np.ndarray:
        """Return an image, uint8 [C, H, W]. Raises UserError if it is corrupt or of another size or mode."""
        name = self._files.label_of(self._where[index])
        picture = load_picture(self.encoded(index), name)
        self._require_same(index, picture.size, picture.mode)
        pixels = np.array(picture)
        return pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def check_headers(self) -> None:
        """Read all headers. Raises UserError naming the first image of another size or mode."""
        first = b""
        for index, start in self._starts(33, "checking images"):
            # A PNG's first bytes hold its size and mode, and a checksum of them.
            if start != first or start[:4] != b"\x89PNG":
                self._require_same(index, *self._header(index))
                first = start

    def _starts(self, size: int, what: str) -> Iterator[tuple[int, bytes]]:
        """Yield the positions and first bytes of all images, with progress."""
        with progress_bar(total=len(self), desc=what, delay=2, leave=False) as bar:
            for begin in range(0, len(self), _AT_ONCE):
                positions = self._where[begin : begin + _AT_ONCE]
                yield from enumerate(self._files.starts(positions, size), begin)
                bar.update(len(positions))

    @staticmethod
    def _is_item(name: str) -> bool:
        return is_picture(name)

    def _measure(self) -> tuple[tuple[int, int], int, np.dtype]:
        """Return (height, width), channels and dtype of the first image, which all images must match."""
        (width, height), mode = self._header(0)
        if mode not in _CHANNELS:
            self._refuse_mode(0, mode)
        return (height, width), _CHANNELS[mode], np.dtype(np.uint8)

    def _header(self, index: int) -> tuple[tuple[int, int], str]:
        position = self._where[index]
        name = self._files.names[position]
        limit = 33 if name.lower().endswith(".png") else None
        try:
            return header(self._files.read(position, limit), self._files.label_of(position))
        except UserError:
            if limit is None:
                raise
        # The file is not a PNG despite its name; other formats need more than the first bytes.
        return header(self._files.read(position), self._files.label_of(position))

    def _require_same(self, index: int, size: tuple[int, int], mode: str) -> None:
        height, width = self.resolution
        if size != (width, height):
            raise UserError(
                f"{self.path} has images of several sizes: {self.image_name(0)} is {width}x{height}, "
                f"{self.image_name(index)} is {size[0]}x{size[1]}; "
                f"resize them with dataset_tool.py --resolution={width}x{height}"
            )
        if mode not in _CHANNELS:
            self._refuse_mode(index, mode)
        if _CHANNELS[mode] != self.channels:
            kinds = {1: "gray", 3: "RGB"}
            raise UserError(
                f"{self.path} has gray and RGB images: {self.image_name(0)} is {kinds[self.channels]}, "
                f"{self.image_name(index)} is {kinds[_CHANNELS[mode]]}; convert them with dataset_tool.py"
            )

    def _refuse_mode(self, index: int, mode: str) -> None:
        raise UserError(
            f"{self._files.label_of(self._where[index])} is neither 8-bit gray nor RGB but {mode}; "
            f"convert the dataset with dataset_tool.py"
        )

    def _require_labels(self) -> None:
        if self._labels is None:
            raise UserError(
                f"{self.path} has no labels, which `cond`=1 needs; train with `cond`=0, "
                f"or put the images of each class into a folder"
            )
        missing = self._labels.missing
        if len(missing):
            first = ", ".join(self.image_name(index) for index in missing[:3])
            raise UserError(
                f"{len(missing)} of {len(self)} images in {self.path} have no label, which `cond`=1 needs "
                f"(first: {first}); drop them with dataset_tool.py --unlabelled=drop, or train with `cond`=0"
            )


class LatentDataset(ImageDataset):
    """Stored latents: float16 or float32 [2C, h, w] per image, the posterior's mean and standard deviation."""

    def image(self, index: int) -> np.ndarray:
        """Return the moments [2C, h, w]. Raises UserError if the file is damaged or of another size."""
        moments = npy.from_npy(self.encoded(index), self._files.label_of(self._where[index]))
        if moments.shape != (self.channels, *self.resolution) or moments.dtype != self.dtype:
            self._refuse(index)
        return moments

    def check_headers(self) -> None:
        """Compare all headers with the first one; they are equal if shape and dtype are."""
        first = self._files.read(self._where[0], HEADER_BYTES)
        for index, start in self._starts(HEADER_BYTES, "checking latents"):
            if start != first:
                self._refuse(index)

    @staticmethod
    def _is_item(name: str) -> bool:
        return name.endswith(npy.SUFFIX)

    def _measure(self) -> tuple[tuple[int, int], int, np.dtype]:
        first = npy.from_npy(self.encoded(0), self._files.label_of(self._where[0]))
        return first.shape[1:], len(first), first.dtype

    def _refuse(self, index: int) -> None:
        raise UserError(
            f"{self.path} has latents of several kinds: {self.image_name(index)} differs from {self.image_name(0)} in "
            "size or type; encode the images again"
        )


def subset(total: int, max_size: int | None, seed: int) -> np.ndarray | None:
    """Return sorted positions of a random subset of `max_size` out of `total`, determined by `seed`; None for all."""
    if max_size is None or max_size >= total:
        return None
    if max_size < 1:
        raise UserError(f"max_size is {max_size}; keep at least one image")
    return np.sort(np.random.RandomState(seed % (1 << 32)).permutation(total)[:max_size])
