"""Files: whole or not at all, from disk or by URL, with their hashes."""

import hashlib
import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.temporaries import temporary_beside


@contextmanager
def atomic_write(path: str | os.PathLike, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on success fsync it and rename it to `path`, else remove it.

    A reader sees the old file or the whole new one, also after a crash or a power cut. Without `durable` it is faster,
    for many small files that can be made again, and the promise does not cover power cuts.
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
    """Make the folders that `path` lies in; after an error those that are new and empty are removed again."""
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
    """`atomic_write` of a file that the user asked for; raises UserError naming it when that fails."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error


def append_line(path: str | os.PathLike, line: str) -> None:
    """Add a line to a text file; raises UserError naming it when that fails."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}; make room for it") from error


def require_writable(path: str | os.PathLike) -> None:
    """Raise UserError, before long work, if no file can be written there. Nothing is left or changed."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")
    with suppress(_NotNow), write_output(path):
        raise _NotNow


class _NotNow(Exception):
    pass


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; not every system lets one open a folder, and there the rename alone must do."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_url(name: str | os.PathLike) -> bool:
    return urllib.parse.urlparse(str(name)).scheme in ("http", "https")


def cache_folder() -> Path:
    """Where downloads and decoded datasets are kept: `$ELUCID_CACHE`, else `~/.cache/elucid`."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "elucid"
    return Path(os.environ.get("ELUCID_CACHE", default))


def sha256(path: str | os.PathLike) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(name: str | os.PathLike, what: str = "file", **options) -> Path:
    """Local path of a file or URL; a URL is downloaded once into the cache, with the options of `download`.

    Raises UserError when the path does not exist or the download fails.
    """
    if not is_url(name):
        path = Path(name)
        if path.is_dir():
            raise UserError(f"{what} {name} is a folder; give the file in it")
        if not path.is_file():
            raise UserError(f"{what} not found: {name}; check the path")
        return path
    url = str(name)
    stem = Path(urllib.parse.urlparse(url).path).name or "download"
    path = cache_folder() / "downloads" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{stem}"
    if not path.is_file():
        from elucid.dnnlib.download import download  # every program imports this module, and few need `requests`

        download(url, path, what, **options)
    return path
