"""Decoded images in one file that all processes of a machine map."""

import copy
import os
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from elucid.dnnlib import files
from elucid.dnnlib.locks import locked
from elucid.dnnlib.progress import progress_bar
from elucid.training.data.dataset import ImageDataset


class CachedDataset(ImageDataset):
    """A data set whose decoded images lie in one file; `array` maps it, read-only, [N, C, H, W].

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
        with locked(file.with_suffix(".lock")):
            if not _whole(file, dataset, shape):
                size, free = int(np.prod(shape)) * dataset.dtype.itemsize, shutil.disk_usage(folder).free
                if size > free / 2:
                    raise OSError(f"it needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
                _build(dataset, file, shape, progress, workers)
        if progress:
            print(f"images cached in {file} ({file.stat().st_size / 1e6:.1f} MB)", file=sys.stderr)
        return CachedDataset(dataset, file)
    except OSError as error:
        warnings.warn(f"images are not cached in {folder}: {error}; set ELUCID_CACHE to a roomier folder", stacklevel=2)
        return dataset


def _whole(file: Path, dataset: ImageDataset, shape: tuple[int, ...]) -> bool:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return False
    return array.shape == shape and array.dtype == dataset.dtype


def _build(dataset: ImageDataset, file: Path, shape: tuple[int, ...], progress: bool, workers: int | None) -> None:
    temporary = file.with_suffix(".tmp.npy")  # one builder at a time holds the lock: no other name is needed
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dataset.dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk must be an error here, not a bus error while writing
            with open(temporary, "rb+") as handle:
                os.posix_fallocate(handle.fileno(), 0, temporary.stat().st_size)

        def decode(index: int) -> None:
            array[index] = dataset.image(index)

        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            bar = progress_bar(total=len(dataset), desc="decoding images", disable=not progress, delay=1)
            with bar:
                for _ in pool.map(decode, range(len(dataset))):
                    bar.update()
        array.flush()
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
