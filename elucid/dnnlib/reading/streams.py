"""Decompresses gzip, and stops when more comes out than is reasonable."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from elucid.dnnlib.reading import limits


@contextmanager
def bounded(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    """Yield the content of a file, decompressed if it is gzip; reading raises UserError beyond the limits."""
    start = file.read(2)
    file.seek(0)
    opened = gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file
    yield io.BufferedReader(_Counted(opened, path), 1 << 16)


class _Counted(io.RawIOBase):
    """Counts what is read from a file of `path`."""

    def __init__(self, file, path: Path):
        self._file, self._path, self._compressed = file, path, path.stat().st_size
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._count += len(data)
        limits.require_ratio(self._count, self._compressed, str(self._path))
        limits.ARRAY_BYTES.require(self._count - (1 << 20), f"{self._path}: its decompressed size")
        return len(data)
