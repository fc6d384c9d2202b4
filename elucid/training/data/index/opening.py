"""Opens the files of a dataset, a large one by its index, which one process makes and all others map.

The index is an entry of the cache, `NAME.index-KEY.npy`; for its locks, and when it is removed, see `cache_entries`.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from elucid.dnnlib.errors import UserError, clean
from elucid.dnnlib.locks import locked
from elucid.training.data import cache_entries, parquet
from elucid.training.data.archives import FileSet, FolderFiles, ZipFiles, located, readable, zip_fingerprint, zip_name
from elucid.training.data.index.index import Index, IndexedFolder, IndexedZip
from elucid.training.data.index.make import folder_key, make_index, open_zip
from elucid.training.data.index.table import set_fact, size_of, write_table
from elucid.training.data.index.zip_table import count_entries

LARGE = 100_000
"""Number of files from which on an index is kept; a smaller dataset is listed in a second or two each time."""


@contextmanager
def opened(path: str | os.PathLike, check: bool) -> Iterator[FileSet]:
    """Open the files of a zip or folder; their `index` is that of a large one. Raises UserError.

    While an index is made, and with `check` until the images have been checked once, which is done in the context,
    other processes wait here.
    """
    place, inside = located(path)
    with ExitStack() as lock:
        with readable(place):
            files = _files(place, inside, check, lock)
        yield files


def note_checked(index: Index) -> None:
    """Note in an index, whose lock is held, that all headers were read and agree."""
    index.facts["checked"] = True
    if index.file is not None:
        with suppress(OSError):  # then they are read again next time
            set_fact(index.file, "checked", True)


def _files(place: Path, inside: str | None, check: bool, lock: ExitStack) -> FileSet:
    if inside is not None and place.suffix == parquet.SUFFIX:
        return parquet.ParquetFiles([place], place)
    if inside is not None and count_entries(place) < LARGE:
        return ZipFiles(place, inside)
    files: FileSet | None = None
    if inside is None:
        name, key = place.resolve().name, folder_key(place)
    else:
        name, key = zip_name(place, inside), zip_fingerprint(place, inside)
    file = cache_entries.datasets_folder() / f"{name}.index-{key[:32]}.npy"
    index = _read(file, key)
    if index is None and inside is None:
        files = FolderFiles(place)
        if len(files) < LARGE:
            return parquet.tables_in(files)
    if index is None or (check and not index.checked):
        kept = _take(lock, file)
        index = _read(file, key) if kept else None
        if index is None:
            index = make_index(open_zip(place, inside) if inside is not None else files or FolderFiles(place))
            index = _keep(index, file) if kept else index
        if index.checked or not check:
            lock.close()
    return IndexedFolder(place, index) if inside is None else IndexedZip(place, inside, index)


def _read(file: Path, key: str) -> Index | None:
    """Return the index in a file; None if there is none, if it is damaged, or of what has changed."""
    try:
        index = Index.read(file)
        # An earlier version found no items in what is now recognised as latents.
        fits = index.fits(key) and len(index.where) > 0
    except (OSError, UserError, LookupError, TypeError):
        return None
    with suppress(OSError):
        cache_entries.note_use(file)
    return index if fits else None


def _take(lock: ExitStack, file: Path) -> bool:
    """Wait for the lock of an index; returns False, with a warning, if there can be none."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        path = cache_entries.lock_of(file)
        if not lock.enter_context(locked(path, wait=False)):
            said = f"waiting for another process, which makes the index of {file.name.rpartition('.index-')[0]}"
            print(clean(said), file=sys.stderr, flush=True)
            lock.enter_context(locked(path))
    except OSError as error:
        _warn(file, error)
        return False
    return True


def _keep(index: Index, file: Path) -> Index:
    """Write an index to a file, whose lock is held, and map that; without room it stays in the memory."""
    temporary = cache_entries.unfinished(file)
    try:
        with locked(file.parent / "room.lock"):  # held until it is written, so that others do not count on the space
            cache_entries.make_room(file.parent, file, size_of(index.arrays))
            write_table(temporary, index.facts, index.arrays)
        os.replace(temporary, file)
        return Index.read(file)
    except OSError as error:
        _warn(file, error)
        return index
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _warn(file: Path, error: OSError) -> None:
    mend = "" if isinstance(error, cache_entries.NoRoom) else "; set ELUCID_CACHE to a roomier folder"
    warnings.warn(clean(f"the index is not kept in {file.parent}, but made each time: {error}{mend}"), stacklevel=4)
