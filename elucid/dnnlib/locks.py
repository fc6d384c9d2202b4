"""One process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Let one process at a time in, by a lock on the file `path`, which is made and stays.

    The value is whether it holds: where the system has no such locks, two may do the same work. Raises OSError where
    the file system has none, or the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    with open(path, "w") as handle:  # removing it afterwards would let two in: one waits for the old, one makes a new
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield True
