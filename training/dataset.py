"""Data sets on disk: a StyleGAN-format zip or folder gives (uint8 image, label), optionally decoded once and for all.

Read next: `encoders.py`.
"""

import copy
import hashlib
import os
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dnnlib import files
from dnnlib.archives import FileSet, open_files
from dnnlib.errors import UserError
from dnnlib.pictures import header, is_picture, load_picture
from training.labels import Labels, from_json

_CHANNELS = {"L": 1, "RGB": 3}


def open_dataset(
    path: str | os.PathLike, *, use_labels: bool = False, max_size: int | None = None, seed: int = 0, check: bool = True
) -> "ImageDataset":
    """Open a zip or folder of images, with or without `dataset.json`; a folder inside a zip is `images.zip/train`.

    `max_size` keeps a random subset fixed by `seed`. `check` reads the header of every image, so that one of another
    size or mode is found now and not in the middle of training. Raises UserError.
    """
    dataset = ImageDataset(open_files(path), use_labels, max_size, seed)
    if check:
        dataset.check_headers()
    return dataset


class ImageDataset:
    """Images in the order of their sorted names. Safe to read from threads, to pickle, and to use after a fork."""

    def __init__(self, source: FileSet, use_labels: bool = False, max_size: int | None = None, seed: int = 0):
        self._files = source
        self.path, self.name, self.use_labels = source.path, source.name, use_labels
        where = np.array([i for i, name in enumerate(source.names) if is_picture(name)], dtype=np.int64)
        if not len(where):
            raise UserError(f"{self.path} holds no images; give a zip or folder made by dataset_tool.py")
        names = [source.names[i] for i in where]
        description = source.find("dataset.json")
        text = None if description is None else source.read(description)
        labels = from_json(text, names, f"{self.path}/dataset.json")
        self.num_images = len(where)  # in the file; len() counts the subset
        kept = subset(len(where), max_size, seed)
        self._where = where[kept]
        self._labels = None if labels is None else labels.select(kept)
        self._subset = "all" if len(kept) == len(where) else f"{max_size}:{seed}"
        (width, height), mode = self._header(0)
        if mode not in _CHANNELS:
            self._refuse_mode(0, mode)
        self.resolution, self.channels = (height, width), _CHANNELS[mode]
        if use_labels:
            self._require_labels()

    def __len__(self) -> int:
        return len(self._where)

    @property
    def has_labels(self) -> bool:
        """Whether the file has labels, used or not."""
        return self._labels is not None

    @property
    def label_dim(self) -> int:
        """Classes, or width of vector labels; 0 when labels are not used."""
        return self._labels.dim if self.use_labels else 0

    @property
    def labels(self) -> Labels | None:
        """The labels in the file, used or not."""
        return self._labels

    @property
    def raw_labels(self) -> np.ndarray | None:
        """int64 [N], -1 where missing, or float32 [N, D], NaN where missing."""
        return None if self._labels is None else self._labels.values

    @property
    def class_names(self) -> list[str] | None:
        return None if self._labels is None else self._labels.class_names

    @property
    def fingerprint(self) -> str:
        """Hex digest of path, size, modification time and subset: a key for what is derived from the images."""
        return hashlib.sha256(f"v1:{self._files.fingerprint()}:{self._subset}".encode()).hexdigest()[:32]

    def image_name(self, index: int) -> str:
        """Name inside the zip or folder."""
        return self._files.names[self._where[index]]

    def encoded(self, index: int) -> bytes:
        """The image file as it is stored."""
        return self._files.read(self._where[index])

    def image(self, index: int) -> np.ndarray:
        """uint8 [C, H, W]. Raises UserError naming the image when it is corrupt or of another size or mode."""
        name = self._files.label_of(self._where[index])
        picture = load_picture(self.encoded(index), name)
        self._require_same(index, picture.size, picture.mode)
        pixels = np.array(picture)
        return pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def label(self, index: int) -> np.ndarray:
        """float32 [label_dim], one-hot for classes; empty when labels are not used."""
        return self._labels.vector(index) if self.use_labels else np.zeros(0, dtype=np.float32)

    def check_headers(self) -> None:
        """Read every header; raises UserError naming the first image of another size or mode."""
        for index in tqdm(range(len(self)), desc="checking images", unit="img", delay=2, leave=False):
            self._require_same(index, *self._header(index))

    def _header(self, index: int) -> tuple[tuple[int, int], str]:
        position = self._where[index]
        name = self._files.names[position]
        limit = 33 if name.lower().endswith(".png") else None
        try:
            return header(self._files.read(position, limit), self._files.label_of(position))
        except UserError:
            if limit is None:
                raise
        # Not the PNG it is called: perhaps another format, which needs more than the first bytes.
        return header(self._files.read(position), self._files.label_of(position))

    def _require_same(self, index: int, size: tuple[int, int], mode: str) -> None:
        height, width = self.resolution
        if size != (width, height):
            raise UserError(
                f"{self.path} has images of several sizes: {self.image_name(0)} is {width}x{height}, "
                f"{self.image_name(index)} is {size[0]}x{size[1]}; "
                f"bring them to one size with dataset_tool.py --resolution={width}x{height}"
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
            f"convert the data set with dataset_tool.py"
        )

    def _require_labels(self) -> None:
        if self._labels is None:
            raise UserError(
                f"{self.path} has no labels, which --cond=1 needs; train with --cond=0, "
                f"or prepare it with dataset_tool.py from one folder per class"
            )
        missing = self._labels.missing
        if len(missing):
            first = ", ".join(self.image_name(index) for index in missing[:3])
            raise UserError(
                f"{len(missing)} of {len(self)} images in {self.path} have no label, which --cond=1 needs "
                f"(first: {first}); leave them out with dataset_tool.py --unlabelled=drop, or train with --cond=0"
            )


def subset(total: int, max_size: int | None, seed: int) -> np.ndarray:
    """Sorted positions of a random subset of at most `max_size` out of `total`, fixed by `seed`."""
    if max_size is None or max_size >= total:
        return np.arange(total)
    if max_size < 1:
        raise UserError(f"max_size is {max_size}; keep at least one image")
    return np.sort(np.random.RandomState(seed % (1 << 32)).permutation(total)[:max_size])


class CachedDataset(ImageDataset):
    """A data set whose decoded images lie in one file; `array` maps it, read-only, uint8 [N, C, H, W].

    All processes of a machine share the same memory.
    """

    def __init__(self, dataset: ImageDataset, file: Path):
        self.__dict__.update(copy.copy(dataset.__dict__))
        self.cache_file = file
        self.array = np.load(file, mmap_mode="r", allow_pickle=False)

    def image(self, index: int) -> np.ndarray:
        return np.array(self.array[index])

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "array"}  # the file, not its content

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.array = np.load(self.cache_file, mmap_mode="r", allow_pickle=False)


def cached(
    dataset: ImageDataset, folder: str | os.PathLike | None = None, progress: bool = True, workers: int | None = None
) -> ImageDataset:
    """Decode all images once into a file that all processes map; the first process builds it, others wait.

    The file is named by the data set's fingerprint. Where it would take more than half of the free disk, or cannot be
    written, the data set is returned as it is, with a warning.
    """
    folder = files.cache_folder() / "datasets" if folder is None else Path(folder)
    file = folder / f"{dataset.name}-{dataset.fingerprint}.npy"
    shape = (len(dataset), dataset.channels, *dataset.resolution)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(file.with_suffix(".lock")):
            if not _whole(file, shape):
                size, free = int(np.prod(shape)), shutil.disk_usage(folder).free
                if size > free / 2:
                    raise OSError(f"it needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
                _build(dataset, file, shape, progress, workers)
        if progress:
            print(f"images cached in {file} ({file.stat().st_size / 1e6:.1f} MB)", file=sys.stderr)
        return CachedDataset(dataset, file)
    except OSError as error:
        warnings.warn(f"images are not cached in {folder}: {error}; set ELUCID_CACHE to a roomier folder", stacklevel=2)
        return dataset


def _whole(file: Path, shape: tuple[int, ...]) -> bool:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return False
    return array.shape == shape and array.dtype == np.uint8


def _build(dataset: ImageDataset, file: Path, shape: tuple[int, ...], progress: bool, workers: int | None) -> None:
    temporary = file.with_suffix(".tmp.npy")  # one builder at a time holds the lock: no other name is needed
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk must be an error here, not a bus error while writing
            with open(temporary, "rb+") as handle:
                os.posix_fallocate(handle.fileno(), 0, temporary.stat().st_size)

        def decode(index: int) -> None:
            array[index] = dataset.image(index)

        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            bar = tqdm(total=len(dataset), desc="decoding images", unit="img", disable=not progress, delay=1)
            with bar:
                for _ in pool.map(decode, range(len(dataset))):
                    bar.update()
        array.flush()
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path):
    """Let one process at a time in, where the system can; elsewhere two may do the same work, with the same result."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
