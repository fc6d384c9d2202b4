"""Writes a dataset as shards, tar files that training reads from an object store, a web server or a hub."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.in_threads import in_threads
from elucid.dnnlib.progress import progress_bar
from elucid.preparation.pool import available_cores
from elucid.preparation.writer import Write, open_destination, require_elsewhere
from elucid.training.data import npy
from elucid.training.data.arrays.statistics import ChannelStream
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.data.statistics import array_sums, channel_sums
from elucid.training.data.streaming.description import CLASSES, FILE, VECTORS, Description, LabelFacts, Shard

MB = 10**6  # bytes
_AHEAD = 16  # images for each thread that are read before they are written
_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE


@dataclass
class ShardReport:
    """Result of writing shards."""

    source: str
    destination: str
    kind: str  # images, latents or arrays
    description: Description

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        about = self.description
        (height, width), labels = about.resolution, about.labels
        yield f"{sum(about.sizes)} {self.kind} of {width}x{height}, {about.channels} channels, {about.dtype}"
        yield f"{len(about.shards)} shards, {about.bytes / MB:.1f} MB in all, from {self.source}"
        if labels is None:
            yield "no labels"
        else:
            yield f"{labels.dim} classes" if labels.kind == CLASSES else f"label vectors of width {labels.dim}"
            if labels.missing:
                yield f"warning: {labels.missing} images have no label; training with --cond=1 will reject them"
        yield f"written: {self.destination}"


class Sample(NamedTuple):
    """What a shard has of an image: its file and label, sums of its values and squares; itself if it is an array."""

    suffix: str
    content: bytes
    label: int | list[float] | None
    total: np.ndarray
    squares: np.ndarray
    array: np.ndarray | None = None


def shard(
    source: str,
    destination: str | os.PathLike,
    *,
    shard_mb: float = 64,
    shuffle: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> ShardReport:
    """Write a zip or folder of images, arrays or latents as shards of at most `shard_mb` MB in a new folder.

    Training mixes the images of a few shards at a time, so that `shuffle` first puts all in a random order, always the
    same. Raises UserError naming the image or option, without leaving an incomplete destination.
    """
    if not shard_mb > 0:
        raise UserError(f"`shard_mb`={shard_mb:g} must be more than 0")
    if Path(destination).suffix.lower() == ".zip":
        raise UserError(f"`dest`={destination}: shards are files in a folder; give a name without .zip")
    require_elsewhere(source, destination)
    dataset = open_dataset(source, latents=True, arrays=True)
    order = np.random.default_rng(0).permutation(len(dataset)) if shuffle else np.arange(len(dataset))
    total = squares = 0
    stream = ChannelStream(dataset.channels) if dataset.arrays is not None else None
    with open_destination(destination) as write:
        writer = _Writer(write, round(shard_mb * MB))
        samples = _samples(dataset, order, workers or available_cores())
        for sample in progress_bar(samples, total=len(order), desc="writing shards", disable=not progress, delay=0.5):
            total, squares = total + sample.total, squares + sample.squares
            if stream is not None and sample.array is not None:
                stream.add(sample.array)
            writer.add(sample)
        writer.finish()
        # The shards of a folder without it are not read, so that they are complete if it is there.
        about = _description(dataset, shuffle, total, squares, writer.shards, stream)
        write(FILE, about.to_json())
    return ShardReport(source, str(destination), dataset.kind, about)


class _Writer:
    """Collects samples in a tar until it is full."""

    def __init__(self, write: Write, most: int):
        self.shards: list[Shard] = []
        self._write, self._most = write, most
        self._written = 0
        self._begin()

    def add(self, sample: Sample) -> None:
        key = f"{self._written:09d}"
        files = [(key + sample.suffix, sample.content)]
        if sample.label is not None:
            is_class = isinstance(sample.label, int)
            files.append((key + (".cls" if is_class else ".json"), json.dumps(sample.label).encode()))
        needed = sum(_BLOCK + -(-len(content) // _BLOCK) * _BLOCK for _, content in files) + 2 * _BLOCK  # two end it
        if self._samples and -(-(self._tar.offset + needed) // _RECORD) * _RECORD > self._most:
            self.finish()
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        self._samples += 1
        self._written += 1

    def finish(self) -> None:
        """Write the shard, and begin the next one."""
        self._tar.close()
        data, name = self._buffer.getbuffer(), f"shard-{len(self.shards):06d}.tar"
        self._write(name, data)
        self.shards.append(Shard(name, self._samples, len(data), hashlib.sha256(data).hexdigest()))
        self._begin()

    def _begin(self) -> None:
        self._buffer, self._samples = io.BytesIO(), 0
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.USTAR_FORMAT)


def _samples(dataset: ImageDataset, order: np.ndarray, workers: int) -> Iterator[Sample]:
    """Return the samples in order; the next ones are read in threads."""
    labels = dataset.labels
    missing = set() if labels is None else set(labels.missing.tolist())

    def sample(index: int) -> Sample:
        label = None if labels is None or index in missing else labels.values[index].tolist()
        if dataset.arrays is None:
            suffix = PurePosixPath(dataset.image_name(index)).suffix.lower()
            return Sample(suffix, dataset.encoded(index), label, *channel_sums(dataset, index))
        array = dataset.image(index)  # of a table, or of a file of another format
        return Sample(npy.SUFFIX, npy.to_npy(array), label, *array_sums(array, dataset, index), array)

    return in_threads(sample, order.tolist(), workers, _AHEAD * workers)


def _description(
    dataset: ImageDataset,
    shuffled: bool,
    total: np.ndarray,
    squares: np.ndarray,
    shards: list[Shard],
    stream: ChannelStream | None,
) -> Description:
    facts, labels = None, dataset.labels
    if labels is not None:
        counts = np.bincount(labels.values[labels.values >= 0], minlength=labels.dim) if labels.are_classes else None
        facts = LabelFacts(
            CLASSES if labels.are_classes else VECTORS,
            labels.dim,
            len(labels.missing),
            None if counts is None else counts.tolist(),
        )
    return Description(
        resolution=tuple(dataset.resolution),
        channels=dataset.channels,
        dtype=dataset.image(0).dtype.name,
        total=total.tolist(),
        squares=squares.tolist(),
        shuffled=shuffled,
        shards=shards,
        labels=facts,
        class_names=dataset.class_names,
        encoder=dataset.encoder if dataset.arrays is None else _measured(dataset, stream),
    )


def _measured(dataset: ImageDataset, stream: ChannelStream) -> dict:
    """Return what is known of the encoder of arrays, with their mean and deviation if it has none."""
    found = stream.summary()
    if constant := found.constant:
        raise UserError(
            f"channel {constant[0]} of {dataset.path} is constant ({found.minimum[constant[0]]:g}); leave it out by "
            "dataset_tool.py --array-channels"
        )
    if dataset.arrays.get("mean") is not None:
        return dataset.arrays
    return {**dataset.arrays, "mean": found.mean.tolist(), "std": found.std.tolist()}
