"""Entries of the dataset cache: listing, locking, eviction.

An entry is `NAME-FINGERPRINT.npy`, or `.tar` for a shard of a remote dataset, with a `.lock` file. A process that
checks, builds or removes an entry holds an exclusive lock on the `.lock` file; a process that uses it holds a shared
lock on the entry, which is released when the process ends in any way. The modification time of `.lock` is the time of
the last use. `room.lock` lets only one process at a time free and allocate space.
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
except ImportError:  # Windows, which does not remove files in use
    fcntl = None

GB = 1e9  # bytes
_DEFAULT_LIMIT = 50.0  # GB
SHARD = ".tar"
_KINDS = (".npy", SHARD)
_UNFINISHED = tuple(f".tmp{kind}" for kind in _KINDS)
_OURS = re.compile(r".+-[0-9a-f]{32}(\.npy|\.tar|\.tmp\.npy|\.tmp\.tar|\.lock)")  # no other files are ever removed


class NoRoom(OSError):
    """Raised if an entry does not fit; the message says what would help."""


@dataclass
class Entry:
    """A cached dataset: `size` in bytes, `last_use` in seconds since 1970."""

    file: Path
    size: int
    last_use: float
    in_use: bool

    @property
    def name(self) -> str:
        return self.file.stem


def datasets_folder() -> Path:
    """Return the default folder of cached datasets."""
    return files.cache_folder() / "datasets"


def limit() -> float:
    """Return the maximum total size in bytes: `$ELUCID_CACHE_GB` * 1e9, by default 50 GB. Raises UserError."""
    text = os.environ.get("ELUCID_CACHE_GB", "").strip()
    try:
        gigabytes = float(text) if text else _DEFAULT_LIMIT
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise UserError(f"ELUCID_CACHE_GB={text} is not a number of gigabytes; set it to e.g. {_DEFAULT_LIMIT:g}")
    return gigabytes * GB


def lock_of(file: Path) -> Path:
    """Return the lock file of a finished or unfinished entry."""
    return file.with_name(file.name.removesuffix(file.suffix).removesuffix(".tmp") + ".lock")


def unfinished(file: Path) -> Path:
    """Return the path at which an entry is built; its lock allows only one builder at a time."""
    return file.with_suffix(f".tmp{file.suffix}")


class Use:
    """Protects an entry from removal while this object, or a copy in a forked process, exists."""

    def __init__(self, file: Path):
        if fcntl is None:
            return
        handle = os.open(file, os.O_RDONLY)
        self._end = weakref.finalize(self, _end_use, handle, lock_of(file))
        fcntl.flock(handle, fcntl.LOCK_SH)


def _end_use(handle: int, lock: Path) -> None:
    os.close(handle)
    with suppress(OSError):  # it may have been removed
        os.utime(lock)


def note_use(file: Path) -> None:
    """Set the time of an entry's last use to now."""
    os.utime(lock_of(file))


def entries(folder: Path) -> list[Entry]:
    """Return the entries, least recently used first."""
    found = []
    for file in _ours(folder, *_KINDS):
        with suppress(FileNotFoundError):  # another process may have removed it
            lock = lock_of(file)
            last_use = (lock if lock.exists() else file).stat().st_mtime
            found.append(Entry(file, file.stat().st_size, last_use, _in_use(file)))
    return sorted(found, key=lambda entry: entry.last_use)


def clear(folder: Path) -> list[Entry]:
    """Remove leftovers and all entries not in use; returns the removed entries."""
    if not folder.is_dir():
        return []
    with locked(folder / "room.lock"):
        remove_leftovers(folder)
        return [entry for entry in entries(folder) if _remove(entry.file)]


def make_room(folder: Path, file: Path, size: int) -> None:
    """Remove leftovers and, until a new entry of `size` bytes fits within the limit, the least recently used entries.

    The caller holds `room.lock` and the lock of the new entry, `file`. Raises NoRoom before removing any entry if the
    new one would not fit anyway, or would take more than half of the free disk space.
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
        why = "allows" if size > limit() else "leaves besides entries in use"
        raise NoRoom(
            f"it needs {size / GB:.2f} GB, more than ELUCID_CACHE_GB={limit() / GB:g} {why}; raise that number"
        )
    free = shutil.disk_usage(folder).free + freed
    if size > free / 2:
        needs = f"it needs {size / GB:.1f} GB and {free / GB:.1f} GB are free"
        raise NoRoom(f"{needs}; set ELUCID_CACHE to a folder with more space")
    for entry in chosen:
        if not _remove(entry.file):
            raise NoRoom(f"another process has just started using {entry.name}; try again")


def remove_leftovers(folder: Path) -> None:
    """Remove leftovers of killed processes: abandoned unfinished entries, and locks without an entry."""
    for file in _ours(folder, *_UNFINISHED):
        _remove(file)
    for lock in _ours(folder, ".lock"):
        if not any(lock.with_suffix(kind).exists() for kind in _KINDS):
            _remove(lock.with_suffix(_KINDS[0]))


def _remove(file: Path) -> bool:
    """Remove a finished or unfinished entry and its lock, unless a process is building or using it."""
    lock = lock_of(file)
    try:
        with locked(lock, wait=False) as alone:
            if not alone or _in_use(file):
                return False
            file.unlink(missing_ok=True)
            if not file.name.endswith(_UNFINISHED):
                lock.unlink(missing_ok=True)
        return True
    except OSError:  # owned by another user, or in use on a system without locks
        return False


def _in_use(file: Path) -> bool:
    if fcntl is None:
        return False
    try:
        with open(file, "rb+") as handle:  # on NFS an exclusive lock needs write access
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _size_of_unfinished(folder: Path, besides: Path | None = None) -> int:
    total = 0
    for file in _ours(folder, *_UNFINISHED):
        with suppress(FileNotFoundError):  # it may have been finished
            total += file.stat().st_size if file != besides else 0
    return total


def _ours(folder: Path, *suffixes: str) -> list[Path]:
    """Return the cache's own files with one of these suffixes."""
    if not folder.is_dir():
        return []
    matches = ((path, _OURS.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return [path for path, match in matches if match is not None and match[1] in suffixes]


def listing(folder: Path) -> Iterator[str]:
    """Yield lines that list the entries, most recently used first, and the shards of a dataset together."""
    present = entries(folder)
    total = sum(entry.size for entry in present)
    lines: dict[str, list[Entry]] = {}
    for entry in reversed(present):
        name = entry.name.partition(".")[0] if entry.file.suffix == SHARD else entry.name
        lines.setdefault(f"{name} (shards)" if entry.file.suffix == SHARD else name, []).append(entry)
    yield f"{folder}: {len(lines)} datasets, {total / GB:.2f} of at most {limit() / GB:g} GB (ELUCID_CACHE_GB)"
    width = max(map(len, lines), default=0)
    for name, group in lines.items():
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(group[0].last_use))
        used = "in use" if any(entry.in_use for entry in group) else used
        yield f"  {name:{width}}  {sum(entry.size for entry in group) / 1e6:10.1f} MB  {used}"
    if size := _size_of_unfinished(folder):
        yield f"  unfinished, {size / 1e6:.1f} MB: being built, or left by killed processes (removed by --clear)"
