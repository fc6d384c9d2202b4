"""What the directories of a TIFF say about its pages, before a library reads it: sizes may be lies."""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits

_MOST_PAGES = 10_000
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _FORMAT = 254, 256, 257, 258, 259, 277, 339
_DEFAULTS = {_SUBFILE: 0, _BITS: 1, _COMPRESSION: 1, _SAMPLES: 1, _FORMAT: 1}
_KINDS = {1: "u", 2: "i", 3: "f"}  # of the tag for the format of samples
_SIZES = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4), 16: ("Q", 8)}  # of the types that tags of interest have
NOT_IMAGES = 0b101
"""Bits of a page's kind: a smaller copy of another page, or a mask of transparency."""


class TooShort(Exception):
    """Raised if a directory lies beyond the bytes that are given."""


class TiffHeader(NamedTuple):
    """`shape` [C,H,W]: samples of all pages that are images; `picture` tells of a single page of 8 bits."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    picture: bool


def tiff_header(data: bytes, name: str, whole: bool = True) -> TiffHeader | None:
    """Return what a TIFF holds; None if not all directories are in `data`, which is not the `whole` file.

    Raises UserError for what is no TIFF or damaged, pages of several sizes or dtypes, and sizes beyond the limits.
    """
    try:
        pages = [page for page in _pages(data, name) if not page[_SUBFILE] & NOT_IMAGES]
        if not pages:
            raise UserError(f"{name} has no pages; replace or remove it")
        shapes = [(page[_HEIGHT], page[_WIDTH]) for page in pages]
        dtypes = [_dtype(page, name) for page in pages]
    except (TooShort, struct.error, KeyError) as error:
        if isinstance(error, TooShort) and not whole:
            return None
        raise UserError(f"{name} is a damaged or cut TIFF; replace or remove it") from error
    for number, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
        if shape != shapes[0] or dtype != dtypes[0]:
            raise UserError(
                f"{name} has pages of several kinds: page 0 is {list(shapes[0])} {dtypes[0]}, page {number} "
                f"{list(shape)} {dtype}; store one image in each file"
            )
    channels = sum(page[_SAMPLES] for page in pages)
    size = channels * shapes[0][0] * shapes[0][1] * dtypes[0].itemsize
    limits.FILE_BYTES.require(size, f"{name}: the size that it states")
    if whole and all(page[_COMPRESSION] == 1 for page in pages) and size > len(data):
        raise UserError(f"{name} is cut: it has {len(data)} bytes, and its values are {size}; copy it again")
    if whole:
        limits.require_ratio(size, len(data), name)
    if not size:
        raise UserError(f"{name} is empty; replace or remove it")
    return TiffHeader((channels, *shapes[0]), dtypes[0], len(pages) == 1 and dtypes[0] == np.uint8)


def _pages(data: bytes, name: str) -> Iterator[dict[int, int]]:
    """Yield the tags of each page. Raises TooShort and UserError."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise UserError(f"{name} is no TIFF; replace or remove it")
    version = struct.unpack(order + "H", data[2:4])[0]
    if version not in (42, 43):
        raise UserError(f"{name} is no TIFF; replace or remove it")
    big = version == 43
    (place,) = _unpack(order + ("Q" if big else "I"), data, 8 if big else 4)
    seen: set[int] = set()
    while place:
        if place in seen or len(seen) >= _MOST_PAGES:
            raise UserError(f"{name} has over {_MOST_PAGES} pages, or they follow each other in a circle; repair it")
        seen.add(place)
        tags, place = _directory(data, place, order, big)
        yield tags


def _directory(data: bytes, place: int, order: str, big: bool) -> tuple[dict[int, int], int]:
    """Return the first value of each tag of interest, and the place of the next directory."""
    head, entry, offset = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    (count,) = _unpack(order + head, data, place)
    start, size = place + struct.calcsize(order + head), struct.calcsize(order + entry)
    if start + count * size > len(data):
        raise TooShort
    inside, outside = _entries(bytes(data[start : start + count * size]), order + entry, order)
    tags = {**_DEFAULTS, **inside}
    for tag, code, value in outside:
        (tags[tag],) = _unpack(code, data, struct.unpack(order + offset, value)[0])
    (following,) = _unpack(order + offset, data, start + count * size)
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise KeyError(_WIDTH)
    return tags, following


@lru_cache(maxsize=64)
def _entries(data: bytes, code: str, order: str) -> tuple[dict[int, int], list[tuple[int, str, bytes]]]:
    """Return the tags of interest in the entries of a directory, and those whose values lie elsewhere, with places.

    Files by one program mostly have the same entries, so they are looked up.
    """
    inside: dict[int, int] = {}
    outside: list[tuple[int, str, bytes]] = []
    for tag, kind, number, value in struct.iter_unpack(code, data):
        if tag in _DEFAULTS or tag in (_WIDTH, _HEIGHT):
            letter, width = _SIZES[kind]
            if number * width <= len(value):
                (inside[tag],) = struct.unpack_from(order + letter, value)
            else:
                outside.append((tag, order + letter, value))
    return inside, outside


def _unpack(code: str, data: bytes, place: int) -> tuple:
    if place + struct.calcsize(code) > len(data):
        raise TooShort
    return struct.unpack_from(code, data, place)


def _dtype(page: dict[int, int], name: str) -> np.dtype:
    bits, kind = page[_BITS], _KINDS.get(page[_FORMAT])
    if kind is None or bits not in (8, 16, 32, 64) or (kind == "f" and bits == 8):
        raise UserError(f"{name} has samples of {bits} bits, format {page[_FORMAT]}; store 8, 16 or 32 bits")
    return np.dtype(f"{kind}{bits // 8}")
