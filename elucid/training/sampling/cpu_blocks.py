"""Reproducible sampling on a CPU: small single-threaded blocks, so that an image depends on its seed only."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

SMALL_NETWORK = 4_000_000
"""Parameters up to which a network is small."""


@dataclass
class Samples:
    """Samples u8[B,C,H,W] (C 1 for gray, else 3) with their seeds and, for a model with classes, classes [B]."""

    seeds: list[int]
    images: Tensor
    labels: Tensor | None

    def part(self, start: int, end: int | None) -> "Samples":
        labels = None if self.labels is None else self.labels[start:end]
        return Samples(self.seeds[start:end], self.images[start:end], labels)


def block_size(denoiser: nn.Module) -> int:
    """Return the batch size on the CPU: 16 for small networks.

    For others more than 4 is hardly faster, and a single image, which costs as much as a block, would be slow.
    """
    return 16 if sum(parameter.numel() for parameter in denoiser.parameters()) <= SMALL_NETWORK else 4


def in_blocks(
    make: Callable[[list], Samples], size: int, items: Sequence, batch_size: int
) -> Generator[Samples, None, None]:
    """Yield make(items) for all items (seed and class) in order, computed in parallel blocks of `size`.

    The blocks are joined to about `batch_size` images.
    """
    blocks = _map_in_parallel(partial(_make_padded, make, size), list(chunks(items, size)))
    return _join_to_size(blocks, batch_size)


def whole_blocks(make: Callable[[list], Samples], size: int) -> Callable[[Sequence], Samples]:
    """Return a function that makes any number of items at once, of the same images as `in_blocks` gives."""
    return lambda items: joined([_make_padded(make, size, part) for part in chunks(items, size)])


def _make_padded(make: Callable[[list], Samples], size: int, items: Sequence) -> Samples:
    """Return make(items), called with items padded to `size`; the extra samples are dropped."""
    count = len(items)
    samples = make([*items, *[items[-1]] * (size - count)])
    return samples.part(0, count)


def chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    """Yield consecutive slices of this size; the last one may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _map_in_parallel(function: Callable, items: list) -> Iterator:
    """Yield function(item) for each item in order, computed by as many single-threaded workers as torch has threads.

    Splitting a convolution between threads changes its rounding; distributing whole blocks does not.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    running, finished = deque(), False
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
        finished = True
    finally:
        # On early exit, e.g. Ctrl-C, do not wait for blocks that are no longer needed.
        pool.shutdown(wait=finished, cancel_futures=True)
        torch.set_num_threads(threads)


def _join_to_size(parts: Iterable[Samples], size: int) -> Generator[Samples, None, None]:
    """Join and split the samples to `size` images at a time."""
    waiting: list[Samples] = []
    for part in parts:
        waiting.append(part)
        while sum(len(samples.seeds) for samples in waiting) >= size:
            whole = joined(waiting)
            yield whole.part(0, size)
            waiting = [whole.part(size, None)]
    if any(samples.seeds for samples in waiting):
        yield joined(waiting)


def joined(parts: list[Samples]) -> Samples:
    """Join samples, in order."""
    labels = None if parts[0].labels is None else torch.cat([part.labels for part in parts])
    return Samples([seed for part in parts for seed in part.seeds], torch.cat([part.images for part in parts]), labels)
