"""Atomic file writing, downloads through a cache, and hashes."""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.temporaries import temporary_beside


@contextmanager
def atomic_write(path: str | os.PathLike, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file next to `path`; on success fsync it and rename it to `path`, else remove it.

    Readers see either the old file or the complete new one, also after a crash or power failure. `durable` False is
    faster but not safe against power failures, for many small files that can be regenerated.
    """
    path = Path(path)
    with parent_folders(path), temporary_beside(path, partial(Path.touch, exist_ok=False)) as temporary:
        with open(temporary, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    if durable:
        _sync_folder(path.parent)


@contextmanager
def parent_folders(path: Path) -> Iterator[None]:
    """Create the parent folders of `path`; after an error, new empty ones are removed again."""
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def write_output(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Call `atomic_write` for a file requested by the user. Raises UserError naming the file on failure."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error


def append_line(path: str | os.PathLike, line: str) -> None:
    """Append a line to a text file. Raises UserError naming the file on failure."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}; check the disk space") from error


def require_writable(path: str | os.PathLike) -> None:
    """Raise UserError if `path` cannot be written, to fail before long work. Leaves nothing behind."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")
    with suppress(_NotNow), write_output(path):
        raise _NotNow


class _NotNow(Exception):
    pass


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, on systems that allow opening a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_url(name: str | os.PathLike) -> bool:
    return re.match(r"https?://", str(name), re.IGNORECASE) is not None


def cache_folder() -> Path:
    """Return the folder for downloads and cached datasets: `$ELUCID_CACHE`, or else `~/.cache/elucid`."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "elucid"
    return Path(os.environ.get("ELUCID_CACHE", default))


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as a hex digest."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(name: str | os.PathLike, what: str = "file", **options) -> Path:
    """Return the local path of a file or URL; a URL is downloaded once into the cache, with options of `download`.

    Raises UserError if the path does not exist or the download fails.
    """
    if not is_url(name):
        path = Path(name)
        if path.is_dir():
            raise UserError(f"{what} {name} is a folder; give the file in it")
        if not path.is_file():
            raise UserError(f"{what} not found: {name}; check the path")
        return path
    url = str(name)
    stem = re.sub(r"[^\w.-]+", "_", url.partition("?")[0].partition("#")[0].rpartition("/")[2])[-100:] or "download"
    path = cache_folder() / "downloads" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{stem}"
    from elucid.dnnlib.reading.kept import is_intact  # which needs this module

    if path.is_file() and not is_intact(path):
        print(f"warning: {path} has changed since it was downloaded; downloading it again", file=sys.stderr)
        path.unlink(missing_ok=True)
    if not path.is_file():
        from elucid.dnnlib.remote.download import download  # rarely needed, and slow to import

        download(url, path, what, **options)
    return path
