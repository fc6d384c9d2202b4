"""Holds shards open, and opens those that come next in the background."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed
from elucid.training.data.cache_entries import NoRoom
from elucid.training.data.streaming.tar import OpenShard

THREADS = 4
"""Shards that are fetched at a time."""
PATIENCE = 60.0
"""Seconds to wait for room in the cache that other processes of this machine will soon give up."""


class HeldShards:
    """Calls `open(number)` for shards, once for all threads, and holds at most `most` open, or those foreseen."""

    def __init__(self, open: Callable[[int], OpenShard], most: int):
        self._open, self._most = open, most
        self._held: OrderedDict[int, Future] = OrderedDict()
        self._foreseen: frozenset[int] = frozenset()
        self._waiting: list[int] = []
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def get(self, number: int) -> OpenShard:
        """Return an open shard. Raises what `open` does; where there is no room, others are given up first."""
        end, wait = time.monotonic() + PATIENCE, 0.0
        while True:
            try:
                return self._get(number)
            except NoRoom:
                self._release(frozenset())
                if time.monotonic() > end:
                    raise
            time.sleep(wait)
            wait = 0.1

    def expect(self, now: Sequence[int], later: Sequence[int]) -> None:
        """Wait until the shards needed `now` are open, while threads open them and then those that come `later`.

        Others are given up. If none are needed now, nothing is foreseen, and so nothing is done.
        """
        if not now:
            return
        self._foreseen = frozenset(now) | frozenset(later)
        self._release(self._foreseen)
        with self._changed:
            missing = [number for number in now if number not in self._held or not self._held[number].done()]
            self._waiting = [number for number in [*now, *later] if number not in self._held]
            self._changed.notify_all()
            if self._waiting and not self._threads:
                self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(THREADS)]
                for thread in self._threads:  # daemons, so that a program does not wait for shards when it ends
                    thread.start()
        if missing:
            shown = {"desc": "fetching shards", "unit": "shard", "disable": distributed.local_rank() != 0}
            for number in progress_bar(missing, delay=3, leave=False, **shown):
                with suppress(NoRoom):
                    self._get(number)

    def close(self) -> None:
        """End the threads, and give up all shards."""
        with self._changed:
            self._closed, self._waiting = True, []
            self._changed.notify_all()
        self._release(frozenset())

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                number = self._waiting.pop(0)
            # Who needs a sample of it tries again, and is told why.
            with suppress(Exception):
                self._get(number)

    def _get(self, number: int) -> OpenShard:
        with self._changed:
            held = self._held.get(number)
            mine = held is None
            if held is None:
                held = self._held[number] = Future()
            self._held.move_to_end(number)
        if mine:
            try:
                held.set_result(self._open(number))
            except BaseException as error:
                with self._changed:
                    self._held.pop(number, None)
                held.set_exception(error)
            self._trim()
        try:
            return held.result()
        finally:
            del held  # which an error would else hold, and by its frames the shards of callers, in a cycle

    def _trim(self) -> None:
        with self._changed:
            spare = [one for one, held in self._held.items() if held.done() and one not in self._foreseen]
            for number in spare[: max(len(self._held) - self._most, 0)]:
                del self._held[number]

    def _release(self, kept: frozenset[int]) -> None:
        """Give up shards that are open, but `kept` ones; a thread that reads one still has it."""
        with self._changed:
            for number in [one for one, held in self._held.items() if held.done()]:
                if number not in kept:
                    del self._held[number]
