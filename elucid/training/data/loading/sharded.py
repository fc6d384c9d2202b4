"""The shuffled order of a dataset in shards, which stays within a few of them at a time."""

import re
from collections.abc import Sequence

import numpy as np

from elucid.training.data.loading.order import Order

_NAME = re.compile(r"shards-([1-9]\d{0,6})")


def window_of(name: str) -> int | None:
    """Return the shards in a window of the order of that name, None if it is no order of shards."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])


class Sharded(Order):
    """A permutation of the shards, cut into windows of `window` shards, and of the samples within each window.

    Both are NumPy's, of the seeds (seed, epoch) and (seed, epoch, window). An epoch has each sample once, as the other
    orders do, but two samples of one batch come from the same window. The `copies` of a sample, one if it is not
    flipped and two if it is, share its window.
    """

    def __init__(self, sizes: Sequence[int], window: int, copies: int, seed: int):
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._ends = np.cumsum(self._sizes)
        self._samples, self._copies, self._width = int(self._ends[-1]), copies, window
        super().__init__(self._samples * copies, seed)
        self.name = f"shards-{window}"
        self._plans: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._windows: dict[tuple[int, int], np.ndarray] = {}

    def permuted(self, epoch: int, offsets: np.ndarray) -> np.ndarray:
        ends = self._plan(epoch)[1]
        places = np.searchsorted(ends, offsets, side="right")
        items = np.empty(len(offsets), dtype=np.int64)
        for place in np.unique(places).tolist():
            chosen, begin = places == place, ends[place - 1] if place else 0
            items[chosen] = self._window(epoch, place)[offsets[chosen] - begin]
        return items

    def soon(self, positions: np.ndarray) -> tuple[list[int], list[int]]:
        now = self.shards(np.unique(self(positions) % self._samples))
        (epoch, place), last = self._place(int(positions[0])), self._place(int(positions[-1]))
        later: list[int] = []
        while (epoch, place) <= last:
            later += self._members(epoch, place)
            epoch, place = self._after(epoch, place)
        later += self._members(epoch, place)
        return now, [shard for shard in dict.fromkeys(later) if shard not in now]

    def shards(self, samples: np.ndarray) -> list[int]:
        """Return the shards of sorted samples, each once."""
        return np.unique(np.searchsorted(self._ends, samples, side="right")).tolist()

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the shards in an epoch, and the offsets at which its windows end."""
        known = self._plans.get(epoch)
        if known is None:
            shards = np.random.default_rng([self.seed, epoch]).permutation(len(self._sizes))
            counts = np.add.reduceat(self._sizes[shards], np.arange(0, len(shards), self._width))
            known = shards, np.cumsum(counts * self._copies)
            # Replaced, not changed, as the thread that loads ahead uses them, too.
            self._plans = {key: value for key, value in self._plans.items() if key >= epoch - 1} | {epoch: known}
        return known

    def _window(self, epoch: int, place: int) -> np.ndarray:
        """Return the permuted items of a window."""
        known = self._windows.get((epoch, place))
        if known is None:
            members = self._members(epoch, place)
            samples = np.concatenate(
                [np.arange(self._ends[one] - self._sizes[one], self._ends[one]) for one in members]
            )
            items = np.concatenate([samples + copy * self._samples for copy in range(self._copies)])
            known = np.random.default_rng([self.seed, epoch, place]).permutation(items)
            kept = list(self._windows.items())[-2:]
            self._windows = dict(kept) | {(epoch, place): known}
        return known

    def _members(self, epoch: int, place: int) -> list[int]:
        return self._plan(epoch)[0][place * self._width : (place + 1) * self._width].tolist()

    def _place(self, position: int) -> tuple[int, int]:
        """Return the epoch and the window of a position."""
        epoch, offset = divmod(position, self.count)
        return epoch, int(np.searchsorted(self._plan(epoch)[1], offset, side="right"))

    def _after(self, epoch: int, place: int) -> tuple[int, int]:
        return (epoch, place + 1) if place + 1 < len(self._plan(epoch)[1]) else (epoch + 1, 0)
