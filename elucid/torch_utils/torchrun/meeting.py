"""Lets the processes that torchrun has started together find each other, also after it has restarted some of them.

torchrun's store outlives its processes, with what those before have written there, such as their addresses. What the
new ones exchange needs a name of its own, on which they agree here; the number of restarts is no such name, as the
agents of several nodes count differently.
"""

import json
import secrets
import time

import torch.distributed as dist

from elucid.dnnlib.errors import UserError

PATIENCE = 600.0
"""Seconds in which all processes must have come."""

_PLACE = "elucid/meeting"


def meet(store: dist.Store, rank: int, world_size: int) -> str:
    """Return a name that all processes of this start get, and none of an earlier one.

    Each process leaves a random word; the first answers with a name and all words that it has seen, and once more when
    a word has changed. A process takes the name from an answer that has its own word. Raises UserError if others do not
    come.
    """
    word = secrets.token_hex(8)
    if rank:
        store.set(f"{_PLACE}/{rank}", word)
    end = time.monotonic() + PATIENCE
    name = _lead(store, world_size, end) if rank == 0 else _follow(store, rank, word, end)
    if name is None:
        raise UserError(f"not all {world_size} processes have come within {PATIENCE:g} s; check the other nodes")
    return name


def _lead(store: dist.Store, world_size: int, end: float) -> str | None:
    name, seen = secrets.token_hex(8), None
    while time.monotonic() < end:
        words = [_read(store, f"{_PLACE}/{rank}") for rank in range(1, world_size)]
        if words != seen:
            store.set(f"{_PLACE}/answer", json.dumps([name, words]))
            seen = words
        if store.add(f"{_PLACE}/{name}", 0) == world_size - 1:
            return name
        time.sleep(0.02)
    return None


def _follow(store: dist.Store, rank: int, word: str, end: float) -> str | None:
    while time.monotonic() < end:
        answer = _read(store, f"{_PLACE}/answer")
        if answer:
            name, words = json.loads(answer)
            if rank <= len(words) and words[rank - 1] == word:
                store.add(f"{_PLACE}/{name}", 1)
                return name
        time.sleep(0.02)
    return None


def _read(store: dist.Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""
