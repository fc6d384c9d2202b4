"""Pictures decoded, converted, transformed and encoded by several processes, in order.

Read next: `writer.py`.
"""

import itertools
import mmap
import multiprocessing
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from dnnlib.errors import UserError
from preparation.images import normalise
from preparation.sources import Source
from preparation.transforms import Size, apply
from preparation.writer import encode_png

_PATIENCE = 1.0  # seconds of work in this process before others are started, which itself takes about as long
_SLOT_BYTES = 1 << 20  # small pictures travel together, to spare messages
_SLOTS_PER_WORKER = 3


@dataclass(frozen=True)
class Recipe:
    """What is done to every picture of a source."""

    source: Source
    channels: int
    background: tuple[int, int, int] = (255, 255, 255)
    transform: str | None = None
    resolution: Size | None = None

    def make(self, index: int) -> tuple[Size, bytes] | None:
        """Size and PNG file of one picture; None when it is too small for the transform."""
        name = self.source.picture_name(index)
        picture = normalise(self.source.picture(index), self.channels, self.background, name)
        picture = apply(self.transform, picture, self.resolution)
        return None if picture is None else (picture.size, encode_png(picture))


Made = tuple[int, tuple[Size, bytes] | None]


def make_all(recipe: Recipe, indices: Sequence[int], workers: int | None = None) -> Iterator[Made]:
    """Yield (index, what `Recipe.make` gives) in the order of `indices`, however many `workers` there are.

    The work begins in this process; workers start only when it is long. Raises what `make` raises.
    """
    workers = workers or available_cores()
    start, done, largest = time.monotonic(), 0, 1
    for index in indices:
        if workers > 1 and done and time.monotonic() - start > _PATIENCE:
            break
        made = recipe.make(index)
        largest = max(largest, len(made[1]) if made else 0)
        done += 1
        yield index, made
    if rest := indices[done:]:
        yield from _in_processes(recipe, rest, workers, largest)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(recipe: Recipe, indices: Sequence[int], workers: int, largest: int) -> Iterator[Made]:
    """Uncompressed pictures are large: they come back through a shared file, not through the pool's pipe."""
    chunk = max(1, _SLOT_BYTES // largest)
    slot_bytes, slots = chunk * largest, _SLOTS_PER_WORKER * workers
    with tempfile.NamedTemporaryFile(prefix="elucid-") as file:
        file.truncate(slot_bytes * slots)
        context = multiprocessing.get_context("spawn")  # safe whatever threads this process has
        pool = ProcessPoolExecutor(workers, context, _start_worker, (recipe, file.name, slot_bytes))
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as shared:
                yield from _collect(pool, shared, slot_bytes, slots, _chunks(indices, chunk))
        except BrokenProcessPool as error:
            raise UserError("a worker process died, perhaps for lack of memory; give --workers=1") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _collect(pool: ProcessPoolExecutor, shared: mmap.mmap, slot_bytes: int, slots: int, chunks: Iterable) -> Iterator:
    """Keep every slot busy; a slot is given out again only when its pictures have been taken."""
    pending: deque = deque()
    free = deque(range(slots))
    for chunk in itertools.chain(chunks, [None]):
        while pending and (chunk is None or not free):
            slot, indices, future = pending.popleft()
            offset = slot * slot_bytes
            for index, made in zip(indices, future.result(), strict=True):
                if made is not None and isinstance(made[1], int):
                    size, length = made
                    made = size, shared[offset : offset + length]
                    offset += length
                yield index, made
            free.append(slot)
        if chunk is not None:
            slot = free.popleft()
            pending.append((slot, chunk, pool.submit(_make_chunk, chunk, slot)))


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


_worker: tuple[Recipe, mmap.mmap, int]


def _start_worker(recipe: Recipe, shared_file: str, slot_bytes: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with open(shared_file, "r+b") as file:
        _worker = recipe, mmap.mmap(file.fileno(), 0), slot_bytes


def _make_chunk(indices: Sequence[int], slot: int) -> list[tuple[Size, int | bytes] | None]:
    """Per picture its size and its length in the slot, or the bytes themselves when the slot is full."""
    recipe, shared, slot_bytes = _worker
    offset, end = slot * slot_bytes, (slot + 1) * slot_bytes
    results: list[tuple[Size, int | bytes] | None] = []
    for index in indices:
        made = recipe.make(index)
        if made is not None and offset + len(made[1]) <= end:
            size, data = made
            shared[offset : offset + len(data)] = data
            offset += len(data)
            made = size, len(data)
        results.append(made)
    return results
