"""Reads a large `dataset.json` entry by entry, so that its labels never are objects all at once.

What is not as usual, such as an image that comes twice, is left to `labels.from_json`, which knows what to say.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.json_text import has_surrogates, parse_json, require_shallow, require_small
from elucid.training.data.index.names import Items
from elucid.training.data.labels import Labels, class_names, classes, from_json, is_vector, plain_name, vectors

_AT_ONCE = 1 << 16  # entries
_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")


class Unusual(Exception):
    """Raised for what is left to the general reader."""


def large_description(text: bytes, where: str, files: int) -> dict[str, Any]:
    """Return what a `dataset.json` says besides its labels; `files` is the size of its dataset. Raises UserError."""
    require_small(text, where, files)
    try:
        return {key: value for key, value in _pieces(text) if key != "labels"}
    except Unusual:
        content = parse_json(text, where, files)
        return {key: value for key, value in content.items() if key != "labels"} if isinstance(content, dict) else {}


def large_labels(text: bytes, items: Items, where: str, files: int) -> Labels | None:
    """Return the labels of the images `items`, as `labels.from_json` does of their names. Raises UserError."""
    require_small(text, where, files)
    try:
        return _labels(text, items, where)
    except (Unusual, UserError):  # which may count, and name, less than there is
        return from_json(text, list(items), where, files)


def _labels(text: bytes, items: Items, where: str) -> Labels | None:
    named, found, seen, after = None, None, np.zeros(len(items), bool), 0
    for key, value in _pieces(text):
        if key == "class_names":
            named = class_names(value, where)
        elif key == "labels":
            pairs = {plain_name(name): label for name, label in value}
            places = _places([*pairs], items, after)
            if len(pairs) != len(value) or seen[places].any():
                raise Unusual
            seen[places], after = True, int(places[-1]) + 1
            labelled = np.fromiter((label is not None for label in pairs.values()), bool, len(pairs))
            pairs = pairs if labelled.all() else {name: label for name, label in pairs.items() if label is not None}
            if pairs:
                found = _put(found, pairs, places[labelled], len(items), where)
    if found is None:
        raise Unusual
    if named is not None and found.ndim == 1 and found.max() >= len(named):
        raise Unusual
    return Labels(found, named)


def _put(found: np.ndarray | None, pairs: dict, places: np.ndarray, count: int, where: str) -> np.ndarray:
    """Put the labels of some images into the array of all, which is made for the first ones."""
    kind = is_vector(next(iter(pairs.values()))) if found is None else found.ndim == 2
    values = vectors(pairs, where) if kind else classes(pairs, None, where)
    if found is None:
        found = np.full((count, *values.shape[1:]), np.nan if kind else -1, dtype=values.dtype)
    if values.shape[1:] != found.shape[1:]:
        raise Unusual
    found[places] = values
    return found


def _places(names: list[str], items: Items, after: int) -> np.ndarray:
    """Return which images have the names: mostly those that follow the ones before."""
    end = min(after + len(names), len(items))
    if items.range(after, end) == names:
        return np.arange(after, end)
    places = [items.place(name) for name in names]
    if None in places:
        raise Unusual
    return np.array(places, dtype=np.int64)


def _pieces(text: bytes) -> Iterator[tuple[str, Any]]:
    """Yield the values of an object by key; of "labels" some [name, label] at a time. Raises Unusual for all else."""
    if has_surrogates(text):
        raise Unusual
    try:
        letters = text.decode()
        yield from _values(letters, json.JSONDecoder().scan_once)
    except (UnicodeDecodeError, StopIteration, RuntimeError, ValueError, RecursionError) as error:
        raise Unusual from error


def _values(text: str, scan) -> Iterator[tuple[str, Any]]:
    place = _after(text, _SPACE.match(text).end(), "{")
    keys: set[str] = set()
    while True:
        key, place = scan(text, place)
        if not isinstance(key, str) or key in keys:
            raise Unusual
        keys.add(key)
        place = _after(text, _SPACE.match(text, place).end(), ":")
        if key == "labels" and text.startswith("[", place):
            place = yield from _entries(text, _after(text, place, "["), scan)
        else:
            value, place = scan(text, place)
            if key == "labels":
                raise Unusual
            require_shallow([value])  # as deep in a list as in the object
            yield key, value
        comma = _BETWEEN.match(text, place)
        if comma is None:
            break
        place = comma.end()
    if _after(text, _SPACE.match(text, place).end(), "}") != len(text):
        raise Unusual


def _entries(text: str, place: int, scan) -> Iterator[tuple[str, list]]:
    """Yield entries some at a time, and return the place after the list."""
    pending: list = []
    while True:
        entry, place = scan(text, place)
        if type(entry) is not list or len(entry) != 2 or type(entry[0]) is not str:
            raise Unusual
        pending.append(entry)
        if len(pending) == _AT_ONCE:
            yield "labels", pending
            pending = []
        if text.startswith(", ", place) and text.startswith("[", place + 2):  # as most are written
            place += 2
            continue
        comma = _BETWEEN.match(text, place)
        if comma is None:
            break
        place = comma.end()
    if pending:
        yield "labels", pending
    return _after(text, _SPACE.match(text, place).end(), "]")


def _after(text: str, place: int, mark: str) -> int:
    """Return the place after a mark and the space that follows it."""
    if not text.startswith(mark, place):
        raise Unusual
    return _SPACE.match(text, place + 1).end()
