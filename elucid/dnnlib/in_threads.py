"""Calls a function in threads, ahead of who takes the results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Yield function(item) in the order of the items; at most `ahead` results more than were taken are computed.

    Raises what the function raises. What is left is not computed if no more is taken.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Without waiting: a generator that nobody exhausts is closed by the garbage collector, perhaps in a thread that
        # is just starting and holds the lock by which another is joined.
        pool.shutdown(wait=False, cancel_futures=True)
