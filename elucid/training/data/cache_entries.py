"""The folder of decoded data sets: what is in it, who uses it, and what goes when it is full.

An entry is `NAME-FINGERPRINT.npy` and a `.lock` beside it. Who checks, builds or removes an entry holds the lock of its
`.lock` alone; who uses it shares the lock of the `.npy` itself, which ends with the process, however that ends. The
modification time of `.lock` is the last use. `room.lock` lets one process at a time make room and take it.
"""

import math
import os
import re
import shutil
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.locks import locked

try:
    import fcntl
except ImportError:  # Windows, which by itself refuses to remove what is in use
    fcntl = None

GB = 1e9  # bytes
_DEFAULT_LIMIT = 50.0  # GB
_UNFINISHED = ".tmp.npy"
_OURS = re.compile(r".+-[0-9a-f]{32}(\.npy|\.tmp\.npy|\.lock)")  # nothing else is ever removed


class NoRoom(OSError):
    """An entry does not fit; the message says what would make it fit."""


@dataclass
class Entry:
    """A decoded data set: `size` in bytes, `last_use` in seconds since 1970."""

    file: Path
    size: int
    last_use: float
    in_use: bool

    @property
    def name(self) -> str:
        return self.file.stem


def datasets_folder() -> Path:
    """Where decoded data sets are kept unless a caller says otherwise."""
    return files.cache_folder() / "datasets"


def limit() -> float:
    """Bytes that all entries together may take: `$ELUCID_CACHE_GB` * 1e9, else 50 GB. Raises UserError."""
    text = os.environ.get("ELUCID_CACHE_GB", "").strip()
    try:
        gigabytes = float(text) if text else _DEFAULT_LIMIT
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise UserError(f"ELUCID_CACHE_GB={text} is no number of gigabytes; set it to {_DEFAULT_LIMIT:g}, for example")
    return gigabytes * GB


def lock_of(file: Path) -> Path:
    """The file whose lock guards an entry, finished or not."""
    return file.with_name(file.name.removesuffix(".npy").removesuffix(".tmp") + ".lock")


def unfinished(file: Path) -> Path:
    """Where an entry is built. One process at a time holds its lock: no other name is needed."""
    return file.with_suffix(_UNFINISHED)


class Use:
    """The claim of a process on an entry, until this object, and its copies in forked processes, are gone."""

    def __init__(self, file: Path):
        if fcntl is None:
            return
        handle = os.open(file, os.O_RDONLY)
        self._end = weakref.finalize(self, _end_use, handle, lock_of(file))
        fcntl.flock(handle, fcntl.LOCK_SH)


def _end_use(handle: int, lock: Path) -> None:
    os.close(handle)
    with suppress(OSError):  # it may be gone
        os.utime(lock)


def note_use(file: Path) -> None:
    """Remember that an entry was used now."""
    os.utime(lock_of(file))


def entries(folder: Path) -> list[Entry]:
    """The entries, those first that have not been used for the longest time."""
    found = []
    for file in _ours(folder, ".npy"):
        with suppress(FileNotFoundError):  # another process may have removed it just now
            lock = lock_of(file)
            last_use = (lock if lock.exists() else file).stat().st_mtime
            found.append(Entry(file, file.stat().st_size, last_use, _in_use(file)))
    return sorted(found, key=lambda entry: entry.last_use)


def clear(folder: Path) -> list[Entry]:
    """Remove the entries that no process uses, and leftovers; the entries removed."""
    if not folder.is_dir():
        return []
    with locked(folder / "room.lock"):
        remove_leftovers(folder)
        return [entry for entry in entries(folder) if _remove(entry.file)]


def make_room(folder: Path, file: Path, size: int) -> None:
    """Remove leftovers, and entries while all would be larger than the limit with one more of `size` bytes.

    The caller holds `room.lock`, and the lock of `file`, the new entry. Raises NoRoom, before any entry is removed, if
    it would not fit even so, or would take more than half of the free disk.
    """
    remove_leftovers(folder)
    present = [entry for entry in entries(folder) if entry.file != file]
    taken = sum(entry.size for entry in present) + _size_of_unfinished(folder, besides=unfinished(file))
    excess = taken + size - limit()
    chosen, freed = [], 0
    for entry in present:
        if freed < excess and not entry.in_use:
            chosen.append(entry)
            freed += entry.size
    if freed < excess:
        why = "allows" if size > limit() else "leaves beside what other processes use"
        raise NoRoom(
            f"it needs {size / GB:.2f} GB, more than ELUCID_CACHE_GB={limit() / GB:g} {why}; raise that number"
        )
    free = shutil.disk_usage(folder).free + freed
    if size > free / 2:
        needs = f"it needs {size / GB:.1f} GB and {free / GB:.1f} GB are free"
        raise NoRoom(f"{needs}; set ELUCID_CACHE to a roomier folder")
    for entry in chosen:
        if not _remove(entry.file):
            raise NoRoom(f"another process has just begun to use {entry.name}; start again")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left: entries that nobody builds any more, and locks of nothing."""
    for file in _ours(folder, _UNFINISHED):
        _remove(file)
    for lock in _ours(folder, ".lock"):
        if not lock.with_suffix(".npy").exists():
            _remove(lock.with_suffix(".npy"))


def _remove(file: Path) -> bool:
    """Remove a finished or unfinished entry and its lock, unless a process builds or uses it."""
    lock = lock_of(file)
    try:
        with locked(lock, wait=False) as alone:
            if not alone or _in_use(file):
                return False
            file.unlink(missing_ok=True)
            if not file.name.endswith(_UNFINISHED):
                lock.unlink(missing_ok=True)
        return True
    except OSError:  # another user's, or in use on a system without locks
        return False


def _in_use(file: Path) -> bool:
    if fcntl is None:
        return False
    try:
        with open(file, "rb+") as handle:  # NFS locks alone only what may be written
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _size_of_unfinished(folder: Path, besides: Path | None = None) -> int:
    total = 0
    for file in _ours(folder, _UNFINISHED):
        with suppress(FileNotFoundError):  # it may be finished by now
            total += file.stat().st_size if file != besides else 0
    return total


def _ours(folder: Path, suffix: str) -> list[Path]:
    """Files that this module's callers made, of one kind."""
    if not folder.is_dir():
        return []
    matches = ((path, _OURS.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return [path for path, match in matches if match is not None and match[1] == suffix]


def listing(folder: Path) -> Iterator[str]:
    """The entries in words, the latest use first."""
    present = entries(folder)
    total = sum(entry.size for entry in present)
    yield f"{folder}: {len(present)} data sets, {total / GB:.2f} of at most {limit() / GB:g} GB (ELUCID_CACHE_GB)"
    width = max((len(entry.name) for entry in present), default=0)
    for entry in reversed(present):
        used = "in use" if entry.in_use else time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_use))
        yield f"  {entry.name:{width}}  {entry.size / 1e6:10.1f} MB  {used}"
    if size := _size_of_unfinished(folder):
        yield f"  unfinished, {size / 1e6:.1f} MB: being built, or left by killed processes (--clear removes those)"
