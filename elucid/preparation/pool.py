"""Decodes, converts, transforms and encodes images in several processes, in order."""

import contextlib
import mmap
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from elucid.dnnlib.errors import UserError
from elucid.preparation.images import normalise
from elucid.preparation.sources import Source
from elucid.preparation.transforms import Size, apply
from elucid.preparation.writer import png_parts

_PROBE = 0.1  # seconds of work after which the total is estimated
_WORTHWHILE = 1.0  # seconds of estimated work above which worker processes are started
_START_UP = 0.5  # seconds until workers deliver; meanwhile this process continues
_SLOT_BYTES = 1 << 22  # images are sent in chunks, to save messages,
_MOST_TOGETHER = 64  # but small enough to balance the last ones between workers
_SLOTS_PER_WORKER = 3


@dataclass(frozen=True)
class Conversion:
    """The conversion applied to every image of a source."""

    source: Source
    channels: int
    background: tuple[int, int, int] = (255, 255, 255)
    transform: str | None = None
    resolution: Size | None = None

    def make(self, index: int) -> tuple[Size, list[bytes | memoryview]] | None:
        """Return size and PNG file (in parts) of an image; None if it is too small for the transform."""
        name = self.source.picture_name(index)
        picture = normalise(self.source.picture(index), self.channels, self.background, name)
        picture = apply(self.transform, picture, self.resolution)
        return None if picture is None else (picture.size, png_parts(picture))


Made = tuple[int, tuple[Size, bytes | memoryview] | None]


def make_all(conversion: Conversion, indices: Sequence[int], workers: int | None = None) -> Iterator[Made]:
    """Yield (index, (size, PNG) or None) in the order of `indices`, for any number of `workers`.

    The work starts in this process; workers are started only if it takes long. The PNG may be in shared memory and is
    valid until the next iteration. Raises what `make` raises.
    """
    workers = workers or available_cores()
    start, done, largest, ahead = time.monotonic(), 0, 1, 0
    for index in indices:
        if workers > 1 and done and (passed := time.monotonic() - start) >= _PROBE:
            speed, left = done / max(passed, 1e-9), len(indices) - done
            if left / speed >= _WORTHWHILE:
                ahead = min(int(speed * _START_UP), left // 2)
                break
        made = _joined(conversion.make(index))
        largest = max(largest, len(made[1]) if made else 0)
        done += 1
        yield index, made
    if rest := indices[done:]:
        yield from _in_processes(conversion, rest, ahead, workers, largest)


def available_cores() -> int:
    """Return the number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(
    conversion: Conversion, indices: Sequence[int], ahead: int, workers: int, largest: int
) -> Iterator[Made]:
    """Convert in worker processes, except the first `ahead` images, which this process converts while they start.

    Uncompressed images are large, so they are returned through slots of a shared file instead of the pool's pipe.
    """
    chunk = max(1, min(_SLOT_BYTES // largest, _MOST_TOGETHER, (len(indices) - ahead) // (2 * workers)))
    slot_bytes, slots = chunk * largest, _SLOTS_PER_WORKER * workers
    chunks = (indices[start : start + chunk] for start in range(ahead, len(indices), chunk))
    pending: deque = deque()
    with tempfile.NamedTemporaryFile(prefix="elucid-", dir=_roomy_memory(slot_bytes * slots)) as file:
        file.truncate(slot_bytes * slots)
        shared = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        pool = ProcessPoolExecutor(workers, _context(), _start_worker, (conversion, file.name, slot_bytes))

        def fill(slot: int) -> None:
            if part := next(chunks, None):
                pending.append((slot, part, pool.submit(_make_chunk, part, slot)))

        try:
            for slot in range(slots):
                fill(slot)
            for index in indices[:ahead]:
                yield index, _joined(conversion.make(index))
            while pending:
                slot, part, future = pending.popleft()
                yield from zip(part, _unpack(future.result(), shared[slot * slot_bytes :]), strict=True)
                fill(slot)
        except BrokenProcessPool as error:
            raise UserError("a worker process died, perhaps out of memory; use `workers`=1") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _context() -> multiprocessing.context.BaseContext:
    """Return a start method that is safe with threads, preferring the one that imports modules only once."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _roomy_memory(size: int) -> str | None:
    """Return the in-memory folder if it has enough space, or None for the default one on disk."""
    shared = "/dev/shm"
    return shared if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2 * size else None


def _unpack(results: list, slot: memoryview) -> Iterator[tuple[Size, bytes | memoryview] | None]:
    """Yield the images that `_make_chunk` wrote to a slot."""
    offset = 0
    for result in results:
        if result is not None and isinstance(result[1], int):
            size, length = result
            result = size, slot[offset : offset + length]
            offset += length
        yield result


_worker: tuple[Conversion, mmap.mmap, int]


def _start_worker(conversion: Conversion, shared_file: str, slot_bytes: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, args=(shared_file,), daemon=True).start()
    with open(shared_file, "r+b") as file:
        _worker = conversion, mmap.mmap(file.fileno(), 0), slot_bytes


def _end_with_parent(shared_file: str) -> None:
    """Exit and clean up if the parent is killed, since workers would otherwise wait forever."""
    multiprocessing.parent_process().join()
    with contextlib.suppress(OSError):
        os.unlink(shared_file)
    os._exit(1)


def _make_chunk(indices: Sequence[int], slot: int) -> list[tuple[Size, int | bytes] | None]:
    """Return for each image its size and its length in the slot, or its bytes if the slot is full."""
    conversion, shared, slot_bytes = _worker
    offset, end = slot * slot_bytes, (slot + 1) * slot_bytes
    results: list[tuple[Size, int | bytes] | None] = []
    for index in indices:
        made = conversion.make(index)
        if made is not None and offset + sum(map(len, made[1])) <= end:
            size, parts = made
            first = offset
            for part in parts:
                shared[offset : offset + len(part)] = part
                offset += len(part)
            results.append((size, offset - first))
        else:
            results.append(_joined(made))
    return results


def _joined(made: tuple[Size, list[bytes | memoryview]] | None) -> tuple[Size, bytes] | None:
    return None if made is None else (made[0], b"".join(made[1]))
