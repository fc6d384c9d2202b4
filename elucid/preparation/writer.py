"""Writes datasets atomically: an uncompressed zip or a folder of uncompressed PNGs, with `dataset.json`."""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path

import numpy as np
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import atomic_write, parent_folders
from elucid.dnnlib.temporaries import remove_leftovers, temporary_beside

Write = Callable[[str, bytes | memoryview], None]


def require_elsewhere(source: str, destination: str | os.PathLike) -> None:
    """Raise UserError if writing the destination would replace the source, or the zip that contains it."""
    path = Path(source)
    if any(part.exists() and part.resolve() == Path(destination).resolve() for part in _with_archive(path)):
        raise UserError(f"`dest`={destination} would replace `source`={source}; give `dest` another name")


def _with_archive(path: Path) -> list[Path]:
    return [path, *(part for part in path.parents if part.is_file())]


def archive_name(index: int, suffix: str = ".png") -> str:
    """Return the name of an image in the dataset: `00012/img00012345.png`."""
    return f"{index:08d}"[:5] + f"/img{index:08d}{suffix}"


def encode_png(picture: Image.Image) -> bytes:
    """Encode an image in mode L or RGB as uncompressed PNG, which is fast to write and read."""
    return b"".join(png_parts(picture))


def png_parts(picture: Image.Image) -> list[bytes | memoryview]:
    """Return the parts of `encode_png`, so that they are copied only once, to their destination.

    This avoids allocating large buffers, which are slow because they are mapped page by page.
    """
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    rows = np.empty((height, 1 + pixels[0].size), dtype=np.uint8)
    rows[:, 0] = 0  # each row starts with its filter type, none
    rows[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    body = _stored(memoryview(rows.reshape(-1)))
    return [b"\x89PNG\r\n\x1a\n", *_chunk(b"IHDR", [head]), *_chunk(b"IDAT", body), *_chunk(b"IEND", [])]


def _chunk(kind: bytes, parts: list[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield length, type, data and checksum of a PNG chunk."""
    yield struct.pack(">I", sum(map(len, parts)))
    yield kind
    yield from parts
    yield struct.pack(">I", reduce(lambda checksum, part: zlib.crc32(part, checksum), parts, zlib.crc32(kind)))


def _stored(data: memoryview) -> list[bytes | memoryview]:
    """Return a zlib stream (RFC 1950) of stored blocks, each with a last-block flag, its length, and the complement."""
    parts: list[bytes | memoryview] = [b"\x78\x01"]
    for start in range(0, len(data), 65535):
        block = data[start : start + 65535]
        parts += struct.pack("<BHH", start + 65535 >= len(data), len(block), len(block) ^ 65535), block
    return [*parts, struct.pack(">I", zlib.adler32(data))]


@contextmanager
def open_destination(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Write]:
    """Yield a function that adds a file to a `.zip` or folder, which gets its final name only on success.

    Leftovers of killed processes for this destination are removed. Raises UserError for an unsupported name, an
    existing file without `overwrite`, a folder that is not empty, or a write error.
    """
    path = Path(path)
    remove_leftovers(path)
    if path.is_file() and not overwrite:
        raise UserError(f"`dest`={path} exists; use `overwrite` to replace it, or give another name")
    if path.suffix.lower() == ".zip":
        opened = _zip(path)
    elif path.suffix.lower() in (".tar", ".gz", ".tgz", ".7z", ".rar", ".npz", ".h5", ".json"):
        raise UserError(f"`dest`={path} is neither a .zip nor a folder; name it {path.stem}.zip")
    else:
        opened = _folder(path)
    try:
        with opened as write:
            yield write
    except OSError as error:
        raise UserError(f"`dest`={path} cannot be written: {error.strerror or error}") from error


@contextmanager
def _zip(path: Path) -> Iterator[Write]:
    if path.is_dir():
        raise UserError(f"`dest`={path} is a folder; give another name")
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # A fixed date, so that the same images give the same file.
        yield lambda name, data: archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


@contextmanager
def _folder(path: Path) -> Iterator[Write]:
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"`dest`={path} exists and is not an empty folder; remove it or give another name")
    with parent_folders(path), temporary_beside(path, partial(Path.mkdir, mode=0o700)) as temporary:

        def write(name: str, data: bytes | memoryview) -> None:
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

        yield write
        temporary.chmod(path.stat().st_mode if path.is_dir() else 0o755)
        os.replace(temporary, path)
