"""Loads batches ahead in a thread; on CUDA their copy to the device runs ahead as well, in a stream of its own."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor

from elucid.torch_utils.transfer import pinned

Parts = tuple[Tensor, ...]


class Ahead:
    """Calls `load(position, count)` in a thread, up to `depth` batches ahead of the one asked for.

    A batch that was not foreseen, as its size or the position has changed, discards what was loaded, and only one is
    loaded ahead until the forecast is right again: where sizes keep changing, each further one would be lost work.
    `waited` counts the seconds for which batches were waited for.
    """

    def __init__(self, load: Callable[[int, int], Parts], depth: int, device: torch.device):
        self.waited = 0.0
        self._load, self._depth, self._device = load, depth, device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1)
        self._loading: deque[tuple[tuple[int, int], Future]] = deque()
        self._foreseen = 0  # batches in a row

    def get(self, position: int, count: int, stride: int) -> Parts:
        """Return the batch at a position, in the memory of the host or of CUDA; the next one is `stride` further."""
        began = time.perf_counter()
        if self._loading and self._loading[0][0] == (position, count):
            parts, copied = self._loading.popleft()[1].result()
            self._foreseen += 1
        else:
            self.discard()
            parts, copied = self._loaded(position, count)
        self.waited += time.perf_counter() - began
        while len(self._loading) < min(self._depth, 1 + self._foreseen):
            place = position + stride * (1 + len(self._loading)), count
            self._loading.append((place, self._thread.submit(self._loaded, *place)))
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            for part in parts:
                part.record_stream(current)  # its memory is not used again before the work queued so far is done
        return parts

    def _loaded(self, position: int, count: int) -> tuple[Parts, "torch.cuda.Event | None"]:
        # The stream also chooses the GPU, which in a new thread is the first one.
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            parts = self._load(position, count)
            if self._side is None:
                return parts, None
            parts = tuple(pinned(part, self._device).to(self._device, non_blocking=True) for part in parts)
            return parts, self._side.record_event()

    def discard(self) -> None:
        """Forget what was loaded ahead."""
        for _, job in self._loading:
            job.cancel()
        self._loading.clear()
        self._foreseen = 0

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
