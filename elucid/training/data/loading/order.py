"""The shuffled order in which images are used: a function of the seed and the position alone.

States name their order, so that a run goes on with the one it began with.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from elucid.dnnlib.errors import UserError

LARGE = 1 << 20
"""Number of items above which new runs use the order that needs no memory; smaller ones keep that of version 0.1."""

ROUNDS = 6
"""Of the Feistel network; four make it hard to tell from a random permutation (Luby and Rackoff 1988)."""


class Order(ABC):
    """Infinite shuffled order of `count` items: epoch e is a permutation of them, determined by (seed, e)."""

    name: str

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed

    @abstractmethod
    def permuted(self, epoch: int, offsets: np.ndarray) -> np.ndarray:
        """Return the items int64 at the offsets of an epoch."""

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the items at the positions, int64 of the same shape [N]."""
        epochs, offsets = np.divmod(positions, self.count)
        items = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            items[chosen] = self.permuted(int(epoch), offsets[chosen])
        return items

    def soon(self, positions: np.ndarray) -> tuple[list[int], list[int]]:
        """Return the shards of successive positions, and those that come next; none if the order heeds no shards."""
        return [], []


class Shuffled(Order):
    """NumPy's permutation of all items, 8 bytes for each item of an epoch."""

    name = "shuffled"

    def __init__(self, count: int, seed: int):
        super().__init__(count, seed)
        self._epochs: dict[int, np.ndarray] = {}

    def permuted(self, epoch: int, offsets: np.ndarray) -> np.ndarray:
        known = self._epochs
        if epoch not in known:
            permutation = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            # Replaced, not changed, as the thread that loads ahead uses it, too.
            self._epochs = {key: value for key, value in known.items() if key >= epoch - 1} | {epoch: permutation}
            return permutation[offsets]
        return known[epoch][offsets]


class Feistel(Order):
    """A bijection that is computed for each item, and needs no memory.

    A balanced Feistel network on 2h bits, the least with 4^h >= count: (l, r) -> (r, l xor F(r, key)), where F is the
    finaliser of SplitMix64 (Steele, Lea and Flood 2014) and the keys are hashes of seed, epoch and round. What falls
    outside of the items goes through it again until it is one (cycle walking: Black and Rogaway 2002), on average less
    than four times in all.
    """

    name = "feistel"

    def __init__(self, count: int, seed: int):
        super().__init__(count, seed)
        half = max(((count - 1).bit_length() + 1) // 2, 1)
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)

    def permuted(self, epoch: int, offsets: np.ndarray) -> np.ndarray:
        values, keys = offsets.astype(np.uint64), self._keys(epoch)
        outside = np.arange(len(values))
        while len(outside):
            values[outside] = self._once(values[outside], keys)
            outside = outside[values[outside] >= self.count]
        return values.astype(np.int64)

    def _keys(self, epoch: int) -> np.ndarray:
        digest = hashlib.shake_256(f"feistel:{self.seed}:{epoch}".encode()).digest(8 * ROUNDS)
        return np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def _once(self, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """Mix 64 bits, so that each bit of the result depends on all of them."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


ORDERS: dict[str, type[Order]] = {one.name: one for one in (Shuffled, Feistel)}


def make_order(
    name: str | None, count: int, seed: int, shard_sizes: Sequence[int] | None = None, shard_window: int = 1
) -> Order:
    """Return the order of that name, or the one that suits the number of items, or the shards that they come in.

    `count` is a multiple of the samples in all shards. Raises UserError if the name is unknown, or there are no shards.
    """
    from elucid.training.data.loading.sharded import Sharded, window_of  # which derive from what this module defines

    if name is None and shard_sizes is not None:
        return Sharded(shard_sizes, shard_window, count // sum(shard_sizes), seed)
    name = name or (Feistel.name if count > LARGE else Shuffled.name)
    if (window := window_of(name)) is not None:
        if shard_sizes is None:
            raise UserError("the state has the data in an order of shards, and `data` is not in shards; give those")
        return Sharded(shard_sizes, window, count // sum(shard_sizes), seed)
    if name not in ORDERS:
        raise UserError(f"the state has the data in the order {name!r}, which this version does not know; update it")
    return ORDERS[name](count, seed)
