"""Disk cache of decoded images, memory-mapped by all processes of a machine.

A file is a `.npy` array of all images, followed by the CRC-32 of each image, and by a checksum of these and the header.
A process checks an image when it first reads it, since the whole file may be larger than the memory.
"""

import copy
import os
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from elucid.dnnlib.errors import UserError, clean
from elucid.dnnlib.locks import locked
from elucid.dnnlib.progress import progress_bar
from elucid.dnnlib.reading import checksums
from elucid.training.data import cache_entries
from elucid.training.data.dataset import ImageDataset


class CachedDataset(ImageDataset):
    """A dataset whose decoded images are in one file; `array` [N, C, H, W] maps it read-only.

    All processes of a machine share the memory. The file is not removed while one of them uses it.
    """

    def __init__(self, dataset: ImageDataset, file: Path):
        self.__dict__.update(copy.copy(dataset.__dict__))
        self.cache_file = file
        self._open()

    def image(self, index: int) -> np.ndarray:
        return self.read(np.array([index]))[0]

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return several images [len(indices),C,H,W]. Raises UserError if the file has changed since it was made."""
        images = self.array[indices]
        for place in np.flatnonzero(~self._checked[indices]):
            index = int(indices[place])
            if zlib.crc32(images[place]) != self._checksums[index]:
                raise UserError(
                    f"{self.cache_file} is damaged (its image {index}, {self.image_name(index)}); remove it with "
                    "dataset_tool.py cache --clear, and start again"
                )
            self._checked[index] = True
        return images

    def _open(self) -> None:
        self._use = cache_entries.Use(self.cache_file)
        self.array = np.load(self.cache_file, mmap_mode="r", allow_pickle=False)
        self._checksums = _checksums(self.cache_file, self.array)
        self._checked = np.zeros(len(self.array), dtype=bool)

    def __getstate__(self) -> dict:  # pickles the path, not the content
        opened = ("array", "_use", "_checksums", "_checked")
        return {key: value for key, value in self.__dict__.items() if key not in opened}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()


def cached(
    dataset: ImageDataset,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
    workers: int | None = None,
    build: bool = True,
) -> ImageDataset:
    """Decode all images into a file that all processes map; the first process builds it while the others wait.

    The file is named by the dataset's fingerprint. All files together take at most `$ELUCID_CACHE_GB`, by default 50;
    the least recently used ones are removed first. If there is still no room, or less free disk space than twice the
    size, or the file cannot be written, the dataset is returned uncached with a warning. Without `build` only a file
    that is there is used.
    """
    cache_entries.limit()  # report an invalid value even if nothing needs to be built
    folder = cache_entries.datasets_folder() if folder is None else Path(folder)
    file = folder / f"{dataset.name}-{dataset.fingerprint}.npy"
    shape = (len(dataset), dataset.channels, *dataset.resolution)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(cache_entries.lock_of(file)):
            if not _whole(file, dataset, shape):
                if not build:
                    return dataset
                _build(dataset, file, shape, progress, workers)
            cache_entries.note_use(file)
            found = CachedDataset(dataset, file)  # while locked, so that the file cannot be removed before it is in use
        if progress:
            print(f"images cached in {file} ({file.stat().st_size / 1e6:.1f} MB)", file=sys.stderr)
        return found
    except OSError as error:
        mend = "" if isinstance(error, cache_entries.NoRoom) else "; set ELUCID_CACHE to a roomier folder"
        warnings.warn(clean(f"images are not cached in {folder}: {error}{mend}"), stacklevel=2)
        return dataset


def _whole(file: Path, dataset: ImageDataset, shape: tuple[int, ...]) -> bool:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        _checksums(file, array)
    except Exception:  # noqa: BLE001  numpy fails in many ways; damaged, or by an older version: it is made again
        return False
    return array.shape == shape and array.dtype == dataset.dtype


def _checksums(file: Path, array: np.ndarray) -> np.ndarray:
    """Return the CRC-32 u32[N] of each image. Raises UserError if it, or the header, is damaged or missing."""
    start, end = array.offset, array.offset + array.nbytes
    with open(file, "rb") as handle:
        header = handle.read(start)
        handle.seek(end)
        data, checked = checksums.content(header + handle.read(), file)
    if not checked or len(data) - start != 4 * len(array):
        raise UserError(f"{file} has no checksums")
    return np.frombuffer(data, "<u4", offset=start)


def _build(dataset: ImageDataset, file: Path, shape: tuple[int, ...], progress: bool, workers: int | None) -> None:
    temporary = cache_entries.unfinished(file)
    try:
        with locked(file.parent / "room.lock"):  # held until the space is allocated, so that others do not count on it
            cache_entries.make_room(file.parent, file, int(np.prod(shape)) * dataset.dtype.itemsize)
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=dataset.dtype, shape=shape)
            if hasattr(os, "posix_fallocate"):  # fail here if the disk is full, not with a bus error while writing
                with open(temporary, "rb+") as handle:
                    os.posix_fallocate(handle.fileno(), 0, temporary.stat().st_size)

        sums = np.zeros(len(dataset), dtype="<u4")

        def decode(index: int) -> None:
            array[index] = image = dataset.image(index)
            sums[index] = zlib.crc32(image)

        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            bar = progress_bar(total=len(dataset), desc="decoding images", disable=not progress, delay=1)
            with bar:
                for _ in pool.map(decode, range(len(dataset))):
                    bar.update()
        array.flush()
        with open(temporary, "rb+") as handle:
            header = handle.read(array.offset)
            handle.seek(0, os.SEEK_END)
            handle.write(checksums.sealed(header + sums.tobytes())[len(header) :])
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
