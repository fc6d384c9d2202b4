"""Checks an LMDB database before it is mapped into memory, where a damaged one ends a process without a word."""

import struct
import subprocess
import sys
from pathlib import Path

from elucid.dnnlib.errors import UserError

_MAGIC = 0xBEEFC0DE
_META = struct.Struct("<16x II 8x Q I 44x 48x QQ")  # magic, version, size of the map, page size, last page, transaction
_READ_ALL = 1 << 30
"""Bytes of a database below which all values are read in advance, not only the keys."""

_READ = """
import sys, lmdb
path, everything = sys.argv[1], sys.argv[2] == "1"
database = lmdb.open(path, readonly=True, lock=False, readahead=False)
with database.begin(buffers=True) as transaction:
    for item in transaction.cursor().iternext(keys=True, values=everything):
        everything and len(bytes(item[1]))
"""


def require_whole(path: Path) -> None:
    """Raise UserError unless `path/data.mdb` is as long as its own meta pages say, and a reader gets through it.

    The reader is another process, since what is damaged inside ends it by a bus error.
    """
    file = path / "data.mdb"
    size = file.stat().st_size
    needed = _needed(file)
    if needed is None:
        raise UserError(f"{path} is not a readable LMDB database: data.mdb has no meta pages; download it again")
    if size < needed:
        raise UserError(f"{path} is cut: data.mdb has {size} bytes of {needed}; download it again")
    command = [sys.executable, "-c", _READ, str(path), str(int(size <= _READ_ALL))]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"its reader ended with code {done.returncode}"])[-1]
        raise UserError(f"{path} is not a readable LMDB database ({reason}); download it again")


def _needed(file: Path) -> int | None:
    """Return the size that the newer of the two meta pages asks for; None if there is none."""
    with open(file, "rb") as handle:
        start = handle.read(_META.size)
        first = _meta(start)
        if first is None:
            return None
        handle.seek(first[0])
        metas = [first, _meta(handle.read(_META.size))]
    newest = max((meta for meta in metas if meta is not None), key=lambda meta: meta[2])
    return (newest[1] + 1) * first[0]


def _meta(data: bytes) -> tuple[int, int, int] | None:
    """Return page size, number of the last page and transaction of a meta page."""
    if len(data) < _META.size:
        return None
    magic, version, _, page, last, transaction = _META.unpack(data)
    good = magic == _MAGIC and version == 1 and 512 <= page <= 1 << 16 and page & (page - 1) == 0 and last < 1 << 48
    return (page, last, transaction) if good else None
