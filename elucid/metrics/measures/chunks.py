"""Chunks of one fixed size, so that features do not depend on how the images were batched."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

SIZES = {"cpu": 16, "cuda": 64}
"""Images in a chunk by kind of device: as fast as larger ones there."""


def chunk_size(device: torch.device) -> int:
    """Return how many images a detector sees at once on a device."""
    return SIZES.get(device.type, SIZES["cpu"])


def in_chunks(batches: Iterable[Tensor], size: int) -> Iterator[tuple[Tensor, int]]:
    """Yield the images of batches [B,C,H,W], of any sizes, as chunks [size,C,H,W] in the same order.

    A library chooses its algorithm, and with it the rounding, by the shape of its input. So the last chunk is filled up
    with copies of its last image; with each chunk goes the number of images before those.
    """
    waiting: list[Tensor] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= size:
            images = torch.cat(waiting)
            yield images[:size].contiguous(), size
            waiting, count = [images[size:]], count - size
    if count:
        images = torch.cat(waiting)
        yield torch.cat([images, images[-1:].expand(size - count, -1, -1, -1)]), count
