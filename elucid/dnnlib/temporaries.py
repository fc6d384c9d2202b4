"""Temporary files and folders beside what they become, locked while their process lives.

The system ends a lock with its process, however that ends: what nobody locks was left by one that was killed.
"""

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and leftovers stay
    fcntl = None  # type: ignore[assignment]


@contextmanager
def temporary_beside(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder, made by `make`, to be renamed to `path`; it is removed at the end if it still is there."""
    temporary, handle = _new(path, make)
    try:
        yield temporary
    finally:
        _remove(temporary)
        if handle is not None:
            os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of their temporary files and folders for `path`.

    Where the file system has no locks nothing is removed, because nobody can tell who lives.
    """
    ours = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{12}\.tmp")
    with suppress(OSError):  # no such folder, or not to be read
        for leftover in [one for one in path.parent.iterdir() if ours.fullmatch(one.name)]:
            with suppress(OSError):  # locked, or another user's
                handle = _lock(leftover)
                if handle is not None:
                    _remove(leftover)
                    os.close(handle)


def _new(path: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """A temporary with its lock; None where the system or the file system has no locks."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        make(temporary)
        try:
            handle = _lock(temporary)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process has taken it for a leftover, for it was not locked yet
        except OSError:
            return temporary, None
        if handle is None or temporary.exists():
            return temporary, handle
        os.close(handle)


def _lock(temporary: Path) -> int | None:
    """Lock it; None where the system has no locks. Raises OSError where it is locked or cannot be."""
    if fcntl is None:
        return None
    # NFS locks only files open for writing, as folders never are.
    handle = os.open(temporary, os.O_RDONLY if temporary.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)
