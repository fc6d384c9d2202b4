"""The resumable stream of training batches, with transforms applied.

The image at each position is a pure function of (seed, position). It is the same for any number of workers and
processes, and the stream can be resumed from the position alone.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import note
from elucid.torch_utils.batches import as_bits
from elucid.torch_utils.transfer import moved
from elucid.training.data.arrays.missing import finite_batch
from elucid.training.data.loading.ahead import Ahead
from elucid.training.data.loading.on_device import on_device
from elucid.training.data.loading.order import Order, make_order
from elucid.training.transforms.base import Transform
from elucid.training.types import MAPS, Batch


class BatchStream:
    """Yields batches on the device for one of `world_size` processes; `position` counts images of all processes.

    `dataset` has `image(i)` [C,H,W] as the encoder takes it, `label(i)` f32 [D], optionally all images as `array`
    [N,C,H,W], `read(indices)`, which checks them or reads many at once, and `maps` beside the images. `transforms` are
    applied on the device, in order. `xflip` doubles the dataset with flipped images, which `Batch.mirrored` marks.
    `keep_on_device` copies all images to the device once, if they take at most `gpu_share` of its free memory.
    `prefetch` batches are loaded ahead. `order` names the order of the images; by default it is chosen by their number,
    or by the shards that the dataset is in.
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
        gpu_share: float = 0.5,
        prefetch: int = 2,
        order: str | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.dataset, self.transforms, self.device = dataset, list(transforms), device
        self.xflip, self.rank, self.world_size = xflip, rank, world_size
        self.position, self._seed = 0, seed
        self._order = self._make_order(order)
        self._expect = None if getattr(dataset, "shard_sizes", None) is None else dataset.expect
        self._array, self._maps = getattr(dataset, "array", None), getattr(dataset, "maps", None)
        decodes = self._array is None or (self._maps is not None and self._maps.array is None)
        self._decoders = ThreadPoolExecutor(max(workers, 1)) if decodes else None
        self._on_device = self._all_images(gpu_share) if keep_on_device else None
        self._ahead = Ahead(self._load, prefetch, device)

    @property
    def order(self) -> str:
        """The name of the order of the images, which states keep."""
        return self._order.name

    def use_order(self, name: str) -> None:
        """Go on in another order of the images, that of a state. Raises UserError for an unknown name."""
        if name != self.order:
            self._order = self._make_order(name)
            self._ahead.discard()

    def _make_order(self, name: str | None) -> Order:
        data = self.dataset
        shards = {one: getattr(data, one) for one in ("shard_sizes", "shard_window") if hasattr(data, one)}
        return make_order(name, len(data) * (2 if self.xflip else 1), self._seed, **shards)

    @property
    def waited(self) -> float:
        """Seconds for which `next` has waited for images, in all."""
        return self._ahead.waited

    def _all_images(self, gpu_share: float) -> Tensor | None:
        """Return all images on the device; None on the CPU, which has the cache, or with a note if there is no room."""
        if self.device.type == "cpu" and self._array is not None:
            return None
        images, reason = on_device(len(self.dataset), self._read, self.device, gpu_share)
        if images is None:
            instead = "decoded at each step" if self._array is None else "read from the disk cache"
            note(f"`cache`=gpu: {reason}; images are {instead} (--set=dataset.gpu_share allows more)")
        return images

    def _read(self, indices: np.ndarray) -> np.ndarray:
        """Return images [len(indices),C,H,W] in the memory of the host."""
        read = getattr(self.dataset, "read", None)
        if read is not None:
            found = read(indices)
        elif self._array is not None:
            found = self._array[indices]
        else:
            found = np.stack(list(self._decoders.map(self.dataset.image, indices.tolist())))
        return finite_batch(found, self.dataset, indices)

    def next(self, count: int) -> Batch:
        """Return the next `count` images of this process, [count,C,H,W], with their conditions."""
        stride = count * self.world_size
        parts = self._ahead.get(self.position, count, stride)
        self.position += stride
        return self._prepare(*parts)

    def _load(self, position: int, count: int) -> tuple[Tensor, ...]:
        start = position + self.rank * count
        positions = np.arange(start, start + count)
        items = self._order(positions)
        flips, indices = np.divmod(items, len(self.dataset))
        if self._on_device is None and self._expect is not None:
            self._expect(*self._order.soon(positions))
        if self._on_device is not None:
            chosen = as_bits(self._on_device)[moved(torch.from_numpy(indices), self.device)]
            raw = chosen.view(self._on_device.dtype)
        else:
            raw = torch.from_numpy(self._read(indices))
        labels = torch.from_numpy(np.stack([self.dataset.label(int(index)) for index in indices]))
        flipped = torch.from_numpy(flips.astype(bool))
        if self._maps is None:
            return raw, labels, flipped
        maps = finite_batch(self._maps.read(indices, self._decoders), self._maps, indices)
        return raw, labels, flipped, torch.from_numpy(maps)

    def _prepare(self, raw: Tensor, labels: Tensor, flips: Tensor, maps: Tensor | None = None) -> Batch:
        cond = {"labels": labels.to(self.device, non_blocking=True)} if self.dataset.label_dim else {}
        if maps is not None:
            cond[MAPS] = maps.to(self.device, non_blocking=True)
        mirrored = flips.to(self.device, non_blocking=True) if self.xflip else None
        batch = Batch(raw.to(self.device, non_blocking=True), cond, mirrored)
        for transform in self.transforms:
            batch = transform(batch)
        return batch

    def close(self) -> None:
        """Stop the loading threads."""
        self._ahead.close()
        if self._decoders is not None:
            self._decoders.shutdown(wait=True, cancel_futures=True)
