"""Reads batches of images and computes their feature statistics, on one or more processes."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.in_threads import in_threads
from elucid.metrics.detectors import Detector
from elucid.metrics.measures.collect import Wanted, collect
from elucid.metrics.statistics import FeatureStatistics
from elucid.torch_utils import distributed


class Images(Protocol):
    """A readable set of images: `image(index)` returns u8[C,H,W] or arrays, all of one shape, and is thread-safe."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray: ...


def read_batches(images: Images, batch_size: int, workers: int | None = None) -> Iterator[Tensor]:
    """Yield this process's share of the images as batches [B,C,H,W], decoded in background threads."""
    shares = list(distributed.rank_share(range(len(images)), batch_size))
    return _decoded(images, shares, workers or os.cpu_count() or 1)


def _decoded(images: Images, shares: Sequence[Sequence[int]], workers: int, batches: int = 3) -> Iterator[Tensor]:
    """Yield a batch for each share; as many more are decoded meanwhile."""
    indices = (index for share in shares for index in share)
    decoded = in_threads(images.image, indices, workers, batches * max(map(len, shares), default=0))
    for share in shares:
        yield torch.from_numpy(np.stack(list(islice(decoded, len(share)))))


def feature_statistics(detector: Detector, batches: Iterable[Tensor], total: int) -> FeatureStatistics:
    """Compute only the statistics of a detector's features; arguments and errors as of `collect`."""
    return collect([detector], [Wanted()], batches, (), total)[0].statistics["features"]
