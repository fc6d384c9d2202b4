"""Processes that torchrun starts find each other, and nobody of an earlier start, in a store that outlives them."""

import threading

import pytest
import torch.distributed as dist

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.torchrun import meeting
from elucid.torch_utils.torchrun.meeting import meet


def start(store, world_size: int, order) -> list[str]:
    """Let the ranks come in an order; returns their names."""
    names: list[str | None] = [None] * world_size

    def come(rank: int) -> None:
        names[rank] = meet(store, rank, world_size)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in order]
    for thread in threads:
        thread.start()
        thread.join(0.05)  # so that the next comes later
    for thread in threads:
        thread.join()
    return names


def test_all_of_a_start_and_none_of_an_earlier_one_get_the_same_name():
    store, seen = dist.HashStore(), set()
    for world_size, order in [(3, [0, 1, 2]), (3, [2, 1, 0]), (2, [1, 0]), (4, [3, 0, 2, 1]), (1, [0]), (3, [1, 2, 0])]:
        names = start(store, world_size, order)
        assert len(set(names)) == 1 and names[0] not in seen
        seen.add(names[0])


def test_those_who_do_not_come_are_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE", 0.2)
    store = dist.HashStore()
    start(store, 1, [0])
    for rank in (0, 1):
        with pytest.raises(UserError, match="not all 2 processes have come"):
            meet(store, rank, 2)
