"""Temporary files and folders next to their destination, locked while their process is alive.

The system releases a lock when its process ends in any way, so unlocked temporaries are leftovers of killed processes.
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
except ImportError:  # Windows: no locks, so leftovers are not removed
    fcntl = None  # type: ignore[assignment]


@contextmanager
def temporary_beside(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Create a file or folder with `make`, to be renamed to `path`; it is removed on exit if it still exists."""
    temporary, handle = _new(path, make)
    try:
        yield temporary
    finally:
        _remove(temporary)
        if handle is not None:
            os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files and folders for `path` left by killed processes.

    On file systems without locks nothing is removed, since live processes cannot be detected.
    """
    ours = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{12}\.tmp")
    with suppress(OSError):  # folder missing or not readable
        for leftover in [one for one in path.parent.iterdir() if ours.fullmatch(one.name)]:
            with suppress(OSError):  # locked, or owned by another user
                handle = _lock(leftover)
                if handle is not None:
                    _remove(leftover)
                    os.close(handle)


def _new(path: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """Create a temporary and its lock; the lock is None on systems or file systems without locks."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        make(temporary)
        try:
            handle = _lock(temporary)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process removed it before it was locked
        except OSError:
            return temporary, None
        if handle is None or temporary.exists():
            return temporary, handle
        os.close(handle)


def _lock(temporary: Path) -> int | None:
    """Lock a temporary; None on systems without locks. Raises OSError if it is locked or cannot be locked."""
    if fcntl is None:
        return None
    # On NFS, only files open for writing can be locked, which folders never are.
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
