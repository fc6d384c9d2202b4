"""The resumable stream of training batches, with transforms applied.

The image at each position is a pure function of (seed, position). It is the same for any number of workers and
processes, and the stream can be resumed from the position alone.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from elucid.torch_utils.transfer import moved, pinned
from elucid.training.transforms.base import Transform
from elucid.training.types import Batch


class Order:
    """Infinite shuffled order of `count` items: epoch e is a permutation drawn from (seed, e)."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._epochs: dict[int, np.ndarray] = {}

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key >= epoch - 1}
            self._epochs[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return self._epochs[epoch]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the items at the positions, int64 of the same shape."""
        epochs, offsets = np.divmod(positions, self.count)
        items = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            items[chosen] = self._permutation(int(epoch))[offsets[chosen]]
        return items


class BatchStream:
    """Yields batches on the device for one of `world_size` processes; `position` counts images of all processes.

    `dataset` has `image(i)` [C,H,W] as the encoder takes it, `label(i)` f32 [D] and optionally all images as `array`
    [N,C,H,W], perhaps with `read(indices)`, which checks them. `transforms` are applied on the device, in order.
    `xflip` doubles the dataset with flipped images, which `Batch.mirrored` marks. `keep_on_device` copies the array to
    the device once. The next batch is prefetched.
    """

    def __init__(
        self,
        dataset,
        transforms: Sequence[Transform],
        device: torch.device,
        *,
        seed: int = 0,
        xflip: bool = False,
        workers: int = 1,
        keep_on_device: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.dataset, self.transforms, self.device = dataset, list(transforms), device
        self.xflip, self.rank, self.world_size = xflip, rank, world_size
        self.position = 0
        self._order = Order(len(dataset) * (2 if xflip else 1), seed)
        self._array = getattr(dataset, "array", None)
        self._read = getattr(dataset, "read", lambda indices: self._array[indices])
        self._on_device = self._all_images().to(device) if keep_on_device else None
        self._decoders = ThreadPoolExecutor(max(workers, 1)) if self._array is None else None
        self._loader = ThreadPoolExecutor(1)
        self._ahead: tuple[tuple[int, int], Future] | None = None

    def _all_images(self) -> Tensor:
        """Return all images [N,C,H,W], from memory if they are not in the disk cache."""
        everything = np.arange(len(self.dataset))
        if self._array is not None:
            return torch.from_numpy(self._read(everything))
        return torch.from_numpy(np.stack([self.dataset.image(index) for index in everything.tolist()]))

    def next(self, count: int) -> Batch:
        """Return the next `count` images of this process, [count,C,H,W], with their conditions."""
        key = (self.position, count)
        if self._ahead is not None and self._ahead[0] == key:
            raw, labels, flips = self._ahead[1].result()
        else:
            raw, labels, flips = self._load(*key)
        self.position += count * self.world_size
        following = (self.position, count)
        self._ahead = following, self._loader.submit(self._load, *following)
        return self._prepare(raw, labels, flips)

    def _load(self, position: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        start = position + self.rank * count
        items = self._order(np.arange(start, start + count))
        flips, indices = np.divmod(items, len(self.dataset))
        if self._on_device is not None:
            raw = self._on_device[moved(torch.from_numpy(indices), self.device)]
        elif self._array is not None:
            raw = torch.from_numpy(self._read(indices))
        else:
            raw = torch.from_numpy(np.stack(list(self._decoders.map(self.dataset.image, indices.tolist()))))
        labels = torch.from_numpy(np.stack([self.dataset.label(int(index)) for index in indices]))
        return tuple(pinned(part, self.device) for part in (raw, labels, torch.from_numpy(flips.astype(bool))))

    def _prepare(self, raw: Tensor, labels: Tensor, flips: Tensor) -> Batch:
        cond = {"labels": labels.to(self.device, non_blocking=True)} if self.dataset.label_dim else {}
        mirrored = flips.to(self.device, non_blocking=True) if self.xflip else None
        batch = Batch(raw.to(self.device, non_blocking=True), cond, mirrored)
        for transform in self.transforms:
            batch = transform(batch)
        return batch

    def close(self) -> None:
        """Stop the loading threads."""
        for pool in (self._loader, self._decoders):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
