"""Many sorted names in one block of bytes: about as large as their text, and mapped from a file if need be."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

_AT_ONCE = 1 << 16  # names decoded at a time


class Names(Sequence):
    """Sorted names as UTF-8 in `block` u8; name i ends where i + 1 begins, at `starts` [N+1], after `skip` bytes.

    Lone surrogates, of names of files that are not UTF-8, are encoded like other characters; so bytes sort as text.
    """

    def __init__(self, block: np.ndarray, starts: np.ndarray, skip: int = 0):
        self.block, self.starts, self.skip = block, starts, skip

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Pack sorted names."""
        parts, lengths, pending = [], [], []
        for name in names:
            pending.append(name.encode("utf-8", "surrogatepass"))
            if len(pending) == _AT_ONCE:
                parts.append(b"".join(pending))
                lengths.append(np.fromiter(map(len, pending), np.int64, len(pending)))
                pending = []
        parts.append(b"".join(pending))
        lengths.append(np.fromiter(map(len, pending), np.int64, len(pending)))
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
        return cls(np.frombuffer(b"".join(parts), np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._bytes(index % len(self)).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _AT_ONCE):
            yield from self.range(first, min(first + _AT_ONCE, len(self)))

    def range(self, first: int, end: int) -> list[str]:
        """Return the names from `first` to `end`."""
        origin = int(self.starts[first])
        data = self.block[origin : int(self.starts[end])].tobytes()
        ends = (self.starts[first : end + 1].astype(np.int64) - origin).tolist()
        begins = [start + self.skip for start in ends[:-1]]
        found = [data[begin:end] for begin, end in zip(begins, ends[1:], strict=True)]
        return [name.decode("utf-8", "surrogatepass") for name in found]

    def index(self, name: str, *_) -> int:
        """Return the position of a name. Raises ValueError if there is none."""
        place = self._first(name.encode("utf-8", "surrogatepass"))
        if place == len(self) or self[place] != name:
            raise ValueError(name)
        return place

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self.index(name) >= 0
        except ValueError:
            return False

    def inside(self, prefix: str) -> tuple[int, int]:
        """Return the first and the end of the names that begin with a prefix."""
        start = prefix.encode("utf-8", "surrogatepass")
        return (self._first(start), self._first(start + b"\xff")) if prefix else (0, len(self))

    def part(self, first: int, end: int, skip: int = 0) -> "Names":
        """Return the names from `first` to `end` without their first `skip` bytes; nothing is copied."""
        return Names(self.block, self.starts[first : end + 1], self.skip + skip)

    def packed(self) -> "Names":
        """Return a copy whose block holds these names only, and places in 4 bytes if they suffice."""
        ends = self.starts.astype(np.int64)
        block, ends = self.block[int(ends[0]) : int(ends[-1])], ends - ends[0]
        if self.skip:
            kept = np.ones(len(block), bool)
            for place in range(self.skip):
                kept[ends[:-1] + place] = False
            block, ends = block[kept], ends - self.skip * np.arange(len(ends))
        return Names(block, ends.astype(np.uint32) if ends[-1] < 1 << 32 else ends)

    def _bytes(self, index: int) -> bytes:
        return self.block[int(self.starts[index]) + self.skip : int(self.starts[index + 1])].tobytes()

    def _first(self, name: bytes) -> int:
        """Return the position of the first name that is not less."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._bytes(middle) < name else (low, middle)
        return low


class Items(Sequence):
    """The names at the ascending positions `where` [N], without the folder `root` that all are in."""

    def __init__(self, names: Names, where: np.ndarray, root: str = ""):
        self.names, self.where, self.root = names, where, root

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.range(*index.indices(len(self))[:2])
        return self.names[self.where[index]].removeprefix(self.root)

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _AT_ONCE):
            yield from self.range(first, min(first + _AT_ONCE, len(self)))

    def range(self, first: int, end: int) -> list[str]:
        """Return the names from `first` to `end`."""
        if first >= end:
            return []
        places = self.where[first:end]
        origin = int(places[0])
        around = self.names.range(origin, int(places[-1]) + 1)
        if len(around) != len(places):
            around = [around[place] for place in (places - origin).tolist()]
        return [name.removeprefix(self.root) for name in around] if self.root else around

    def place(self, name: str) -> int | None:
        """Return which of these has a name, or None."""
        try:
            found = self.names.index(self.root + name)
        except ValueError:
            return None
        place = int(np.searchsorted(self.where, found))
        return place if place < len(self.where) and self.where[place] == found else None
