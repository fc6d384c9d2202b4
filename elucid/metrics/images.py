"""Reads batches of images and computes their feature statistics, on one or more processes."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

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
    return _decoded(images, distributed.rank_share(range(len(images)), batch_size), workers or os.cpu_count() or 1)


def _decoded(images: Images, shares: Iterable[Sequence[int]], workers: int, ahead: int = 3) -> Iterator[Tensor]:
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for share in shares:
                waiting.append([pool.submit(images.image, index) for index in share])
                if len(waiting) > ahead:
                    yield _stack(waiting.popleft())
            while waiting:
                yield _stack(waiting.popleft())
        finally:  # on a corrupt image or early exit, do not decode the rest
            pool.shutdown(cancel_futures=True)


def _stack(futures: list) -> Tensor:
    return torch.from_numpy(np.stack([future.result() for future in futures]))


def feature_statistics(detector: Detector, batches: Iterable[Tensor], total: int) -> FeatureStatistics:
    """Compute only the statistics of a detector's features; arguments and errors as of `collect`."""
    return collect([detector], [Wanted()], batches, (), total)[0].statistics["features"]
