"""Results in order, few ahead, and an end that nobody waits for."""

import threading
import time

import pytest

from elucid.dnnlib.in_threads import in_threads


def test_results_come_in_order_and_few_ahead():
    called = []

    def slow(item: int) -> int:
        called.append(item)
        time.sleep(0.01 * (item % 3))
        return item * item

    results, taken = in_threads(slow, range(40), 4, 5), []
    for result in results:
        taken.append(result)
        assert len(called) <= len(taken) + 5
    assert taken == [item * item for item in range(40)]


def test_an_error_comes_at_its_place_and_the_rest_is_left():
    called = []

    def picky(item: int) -> int:
        called.append(item)
        if item == 3:
            raise ValueError(item)
        return item

    results = in_threads(picky, range(1000), 2, 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert len(called) < 20 and list(results) == []


def test_closing_waits_for_no_thread():
    """As the garbage collector may close it in a thread that cannot join another, which hung once in some runs."""
    go = threading.Event()
    results = in_threads(lambda item: item or go.wait(60), [1, 0, 1], 1, 1)
    assert next(results) == 1
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 30
    go.set()
