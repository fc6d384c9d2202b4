"""Samples of an array whose chunks hold several: some chunks are kept, decompressed."""

import os
import threading
from collections import OrderedDict

import numpy as np

from elucid.training.data.arrays.formats.stored import StoredArray

CACHE_BYTES = 64 << 20
"""Of decompressed chunks that a process keeps of an array."""


class Rows:
    """Reads samples of an array, and keeps the chunks used last, up to `budget` bytes in each process."""

    def __init__(self, array: StoredArray, budget: int = CACHE_BYTES):
        self.array = array
        self._size = array.rows_per_chunk
        self._most = budget // max(self._size * array.row_bytes, 1)
        self._state = _State()

    @property
    def reads_more(self) -> int:
        """How many samples are decompressed to read one, unless all fit into what is kept."""
        chunks = -(-self.array.shape[0] // self._size)
        return 1 if chunks <= self._most else self._size

    def __getitem__(self, index: int) -> np.ndarray:
        """Return a sample, which must not be written to. Raises UserError if it cannot be read."""
        if self._size == 1 or not self._most:
            return self.array.rows(index, index + 1)[0]
        state = self._state
        if state.process != os.getpid():  # the lock may have been held when the process was forked
            state = self._state = _State()
        place, row = divmod(index, self._size)
        with state.lock:
            if place in state.chunks:
                state.chunks.move_to_end(place)
                return state.chunks[place][row]
        first = place * self._size
        chunk = self.array.rows(first, min(first + self._size, self.array.shape[0]))
        with state.lock:
            state.chunks[place] = chunk
            while len(state.chunks) > self._most:
                state.chunks.popitem(last=False)
        return chunk[row]

    @property
    def batched(self) -> bool:
        """Whether `many` takes less time than samples one by one."""
        return self.array.batched and (self._size == 1 or self.reads_more > 1)  # else it is kept

    def many(self, indices: np.ndarray) -> np.ndarray:
        """Return samples [N,...] in any order. Raises UserError if they cannot be read."""
        places, back = np.unique(indices, return_inverse=True)
        return self.array.many(places)[back]

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_state"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _state=_State())


class _State:
    def __init__(self):
        self.process, self.lock = os.getpid(), threading.Lock()
        self.chunks: OrderedDict[int, np.ndarray] = OrderedDict()
