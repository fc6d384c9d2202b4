"""The directory of a large zip as arrays, without an object for each entry.

It takes only what is usual: a zip that is out of the ordinary in any way, hostile or merely odd, gives None, and is
left to `dnnlib.reading.zips`, which knows what to refuse and what to say.
"""

import os
import stat
import struct

import numpy as np

from elucid.dnnlib.reading import limits
from elucid.training.data.archives import ZipColumns
from elucid.training.data.index.names import Names

_END, _END64, _PLACE64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_ENTRY = 46  # bytes of an entry, besides its name, extra field and comment
_AT_ONCE = 1 << 19  # entries
_WINDOW = 1 << 26  # bytes searched for entries at a time
_LONGEST = 512  # bytes of a name
_FULL = 0xFFFFFFFF  # of a number whose value is in the extra field
_HIDDEN = (b"__MACOSX", b"Thumbs.db", b"desktop.ini", b"\\")
_RECORDS = 8  # of an extra field


class Unusual(Exception):
    """Raised for what is left to the general reader."""


def count_entries(path: str | os.PathLike) -> int:
    """Return how many entries a zip says it has; 0 if it is none, or unusual."""
    try:
        with open(path, "rb") as file:
            return _directory(file.fileno())[2]
    except (Unusual, OSError):
        return 0


def zip_table(path: str | os.PathLike) -> ZipColumns | None:
    """Return the files of a zip, names as `Names`; None for one that the general reader must judge. Raises OSError."""
    try:
        with open(path, "rb") as file:
            return _read(file.fileno())
    except (Unusual, MemoryError):
        return None


def _directory(handle: int) -> tuple[int, int, int, int]:
    """Return place and size of the directory, the number of its entries, and the size of the file."""
    size = os.fstat(handle).st_size
    start = max(size - (1 << 16) - 22, 0)
    tail = os.pread(handle, size - start, start)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        raise Unusual
    _, disk, disk2, here, count, length, place, comment = _END.unpack_from(tail, at)
    end = start + at
    if at + 22 + comment != len(tail) or disk or disk2 or here != count:
        raise Unusual
    mark, disk, where, disks = _PLACE64.unpack(_exactly(handle, end - 20, 20))
    if mark == b"PK\6\7" or count == 0xFFFF or length == _FULL or place == _FULL:
        if mark != b"PK\6\7" or disk or disks > 1:
            raise Unusual
        mark, rest, _, _, disk, disk2, here, count, length, place = _END64.unpack(_exactly(handle, where, 56))
        if mark != b"PK\6\6" or rest != 44 or disk or disk2 or here != count or where + 56 != end - 20:
            raise Unusual
        end = where
    if place + length != end or length < _ENTRY * count:  # else something lies before the zip, or it is damaged
        raise Unusual
    return place, length, count, size


def _exactly(handle: int, place: int, size: int) -> bytes:
    data = os.pread(handle, size, place) if place >= 0 else b""
    if len(data) != size:
        raise Unusual
    return data


def _read(handle: int) -> ZipColumns:
    place, length, count, size = _directory(handle)
    if not 0 < count <= limits.ENTRIES.value:
        raise Unusual
    data = np.empty(length, np.uint8)
    view, done = memoryview(data), 0
    while done < length:
        if not (got := os.preadv(handle, [view[done : done + (1 << 30)]], place + done)):
            raise Unusual
        done += got
    starts = _starts(data, count)
    parts = [_entries(data, starts[first : first + _AT_ONCE], size) for first in range(0, count, _AT_ONCE)]
    at, widths, offsets, sizes, lengths, sums, methods = map(np.concatenate, zip(*parts, strict=True))
    if int(sizes.sum()) > size:
        raise Unusual
    _require_ratio(int(lengths.sum()), size)
    at, widths, order = _sorted(data, at, widths)
    if order is not None:
        offsets, sizes, lengths, sums, methods = (one[order] for one in (offsets, sizes, lengths, sums, methods))
    return ZipColumns(_names(data, at, widths), offsets, sizes, lengths, sums, methods)


def _starts(data: np.ndarray, count: int) -> np.ndarray:
    """Return where the entries begin: each where the one before ends."""
    found = []
    for first in range(0, len(data), _WINDOW):
        part = data[first : first + _WINDOW + 3]
        hits = (part[:-3] == 0x50) & (part[1:-2] == 0x4B) & (part[2:-1] == 1) & (part[3:] == 2)
        found.append(np.flatnonzero(hits) + first)
    starts = np.concatenate(found)
    if len(starts) != count or starts[0] != 0 or starts[-1] + _ENTRY > len(data):
        raise Unusual
    ends = np.empty_like(starts)
    for first in range(0, count, _AT_ONCE):
        at = starts[first : first + _AT_ONCE]
        ends[first : first + _AT_ONCE] = at + _ENTRY + sum(_number(data, at + field, 2) for field in (28, 30, 32))
    if ends[-1] != len(data) or not np.array_equal(ends[:-1], starts[1:]):
        raise Unusual  # the signature occurs within an entry, or something lies between two
    return starts


def _entries(data: np.ndarray, at: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """Return, of the entries at these places that are files, where names begin, their length, and the columns."""
    flags, method = _number(data, at + 8, 2), _number(data, at + 10, 2)
    sums, packed, full = (_number(data, at + field, 4) for field in (16, 20, 24))
    width, extra, disk = (_number(data, at + field, 2) for field in (28, 30, 34))
    kind, offset = (_number(data, at + 38, 4) >> 16) & 0o170000, _number(data, at + 42, 4)
    packed, full, offset = _large(data, at + _ENTRY + width, extra, packed, full, offset)
    unix = data[at + 5] == 3
    links = unix & (kind != 0) & (kind != stat.S_IFREG) & (kind != stat.S_IFDIR)
    if disk.any() or links.any() or not width.all() or (offset + 30 + packed > size).any():
        raise Unusual
    name = at + _ENTRY
    _require_usual_names(data, name, width, (flags & 0x800) != 0)
    files = data[name + width - 1] != 0x2F
    large = files & (full > limits.SMALL) & (full > limits.RATIO.value * np.maximum(packed, 1))
    if large.any():
        raise Unusual
    method = np.where(flags & 1, -1, np.minimum(method, 1 << 14)).astype(np.int16)
    columns = (name, width, offset, packed, full, sums.astype(np.uint32), method)
    return tuple(column[files] for column in columns)


def _large(data, at, extra, packed, full, offset) -> tuple[np.ndarray, ...]:
    """Return sizes and offset, from the extra field where they do not fit into 4 bytes."""
    values = [full, packed, offset]  # in the order of the extra field
    wanting = np.flatnonzero((full == _FULL) | (packed == _FULL) | (offset == _FULL))
    if len(wanting):
        at, end = at[wanting].copy(), (at + extra)[wanting]
        for _ in range(_RECORDS):  # to the record of type 1
            if (at + 4 > end).any():
                raise Unusual
            other = _number(data, at, 2) != 1
            if not other.any():
                break
            at = np.where(other, at + 4 + _number(data, at + 2, 2), at)
        else:
            raise Unusual
        end, at = at + 4 + _number(data, at + 2, 2), at + 4
        for value in values:
            given = value[wanting] == _FULL
            if (given & (at + 8 > end)).any() or (end > len(data)).any():
                raise Unusual
            value[wanting[given]] = _number(data, at[given], 8)
            at = at + 8 * given
    if any((value < 0).any() for value in values):
        raise Unusual
    return values[1], values[0], values[2]


def _require_usual_names(data: np.ndarray, at: np.ndarray, width: np.ndarray, utf8: np.ndarray) -> None:
    """Raise Unusual for names that are absolute, lead outside, are hidden or not plain UTF-8."""
    if width.max() > _LONGEST:
        raise Unusual
    block, starts = _gathered(data, at, width)
    dots = np.flatnonzero(block == 0x2E)
    begins = np.zeros(len(block) + 1, bool)
    begins[starts[:-1]] = True
    after = np.concatenate([np.ones(1, bool), block == 0x2F]) | begins  # where a part of a path begins
    if after[dots].any() or (block[starts[:-1]] == 0x2F).any() or (block == 0).any():
        raise Unusual
    second = starts[:-1][width > 1] + 1
    if (block[second] == 0x3A).any():  # a drive, as C:
        raise Unusual
    text = block.tobytes()
    if any(word in text for word in _HIDDEN):
        raise Unusual
    if (foreign := block >= 0x80).any():
        owner = np.repeat(utf8, width)
        if not owner[foreign].all() or ((block[starts[:-1]] & 0xC0) == 0x80).any():
            raise Unusual
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise Unusual from error


def _require_ratio(size: int, packed: int) -> None:
    if size > limits.SMALL and size > limits.RATIO.value * max(packed, 1):
        raise Unusual


def _sorted(data: np.ndarray, at: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return places and lengths of the names in their order, and the order if it is another. No name comes twice."""
    if len(at) == 0:
        raise Unusual
    longest, previous, inorder = int(width.max()), b"", True
    for first in range(0, len(at), _AT_ONCE):
        part = _fixed(data, at[first : first + _AT_ONCE], width[first : first + _AT_ONCE], longest)
        inorder = inorder and bool((part[:-1] < part[1:]).all()) and (not first or previous < part[0])
        previous = part[-1]
    if inorder:
        return at, width, None
    pieces = (slice(first, first + _AT_ONCE) for first in range(0, len(at), _AT_ONCE))
    names = np.concatenate([_fixed(data, at[one], width[one], longest) for one in pieces])
    order = np.argsort(names, kind="stable")
    names = names[order]
    if (names[:-1] == names[1:]).any():
        raise Unusual
    return at[order], width[order], order


def _fixed(data: np.ndarray, at: np.ndarray, width: np.ndarray, longest: int) -> np.ndarray:
    """Return names as byte strings of a fixed length, which NumPy compares."""
    columns = np.arange(longest)
    inside = columns < width[:, None]
    table = np.where(inside, data[np.minimum(at[:, None] + columns, len(data) - 1)], 0).astype(np.uint8)
    return np.ascontiguousarray(table).view(f"S{longest}").ravel()


def _names(data: np.ndarray, at: np.ndarray, width: np.ndarray) -> Names:
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(width)])
    block = np.empty(int(starts[-1]), np.uint8)
    for first in range(0, len(at), _AT_ONCE):
        part, _ = _gathered(data, at[first : first + _AT_ONCE], width[first : first + _AT_ONCE])
        block[starts[first] : starts[first] + len(part)] = part
    return Names(block, starts)


def _gathered(data: np.ndarray, at: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of names one after another, and where each begins."""
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(width)])
    places = np.arange(starts[-1]) + np.repeat(at - starts[:-1], width)
    return data[places], starts


def _number(data: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    """Return the unsigned little-endian numbers at these places as int64."""
    value = np.zeros(len(at), np.int64)
    for byte in range(size):
        value |= data[at + byte].astype(np.int64) << (8 * byte)
    return value
