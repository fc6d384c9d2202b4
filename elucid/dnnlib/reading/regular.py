"""Opens regular files only: never a pipe, which waits for ever, or a device, which never ends."""

import os
import stat

from elucid.dnnlib.reading import limits


def read_regular(path: str, limit: int | None = None, allowed: int = 0) -> bytes:
    """Return a file's content, or its first `limit` bytes. Raises OSError, and UserError for what is too large.

    A whole file may have `allowed` bytes even if that is more than the limit.

    It is opened without waiting, and only then looked at, so that it cannot be exchanged in between.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "it is a pipe, a device or a folder")
        if limit is None and status.st_size > allowed:
            limits.FILE_BYTES.require(status.st_size, f"{path}: its size")
        return file.read(-1 if limit is None else limit)


def regular_files(path: str, folders: dict[str, int] | None = None) -> tuple[list[str], list[str]]:
    """Return the names of the regular files below a folder, relative with forward slashes, and of all else.

    Links are followed, but not to a folder that contains them; hidden files are left out. `folders` is filled with the
    folders looked through, with their modification times in ns before that. Raises OSError.
    """
    names: list[str] = []
    others: list[str] = []
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(path),))]
    while waiting:
        prefix, parents = waiting.pop()
        if folders is not None:
            folders[prefix] = os.stat(os.path.join(path, prefix)).st_mtime_ns
        with os.scandir(os.path.join(path, prefix)) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                name = prefix + entry.name
                if entry.is_dir():
                    place = os.path.realpath(entry.path) if entry.is_symlink() else f"{parents[-1]}/{entry.name}"
                    if place not in parents:
                        waiting.append((name + "/", (*parents, place)))
                else:
                    (names if entry.is_file() else others).append(name)
        limits.ENTRIES.require(len(names), f"{path}: its number of files")
    return sorted(names), sorted(others)


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden or from a file manager: `.DS_Store`, `._photo.jpg`, `__MACOSX`, `Thumbs.db`."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")
