"""Unpickles numbers, numpy arrays and containers without running code."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from elucid.dnnlib.unpickle import Constant, Global, Record, read_pickle, recorder


def load_arrays(data: bytes, source: str) -> Any:
    """Load the numbers, strings and numeric arrays of a pickle, in lists and dictionaries.

    Strings and bytes written by Python 2 may each be `str` or `bytes`. Arrays are read-only views of the data. Raises
    UserError naming `source` for arrays of objects, any other class or function, and damaged files.
    """
    return read_pickle(data, CONTAINERS | ARRAYS, source, finish=_fill)


def _fill(content: Any) -> Any:
    """Convert recorded arrays to arrays in place, without recursion, since the file may be nested deeply."""
    root = [content]
    waiting: list[Any] = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        for key, value in items:
            if isinstance(value, Record):
                node[key] = array(value)
            elif isinstance(value, dict | list):
                waiting.append(value)
    return root[0]


def array(record: Record) -> np.ndarray:
    """Convert a recorded array, which is either filled by its state or (protocol 5) created from a buffer."""
    if record.name != "numpy.ndarray":
        raise ValueError(f"a {record.name} where an array belongs")
    if record.state is None:
        raw, kind, shape, order = record.args
    else:
        _, shape, kind, fortran, raw = record.state
        order = "F" if fortran else "C"
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, number_type(kind)).reshape(shape, order=order)


def number_type(kind: Record) -> np.dtype:
    order = kind.state[1] if isinstance(kind.state, tuple) and kind.state[1:2] in (("<",), (">",)) else "="
    return np.dtype(kind.args[0]).newbyteorder(order)


def dtype(name: str, *_) -> Record:
    if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", name):
        raise ValueError(f"an array of type {name!r}, not of numbers")
    return Record("numpy.dtype", (name,))


def scalar(kind: Record, data: bytes) -> float | int | bool:
    """Convert a numpy scalar to a Python number."""
    values = np.frombuffer(data, dtype=number_type(kind))
    return values.item()


def encode(text: str, encoding: str) -> bytes:
    """Decode bytes as old protocols write them."""
    if encoding != "latin1":
        raise ValueError(f"bytes written as {encoding!r}")
    return text.encode("latin-1")


def no_bytes() -> bytes:
    return b""


def pairs(items=()) -> dict:
    return dict(items)


def reconstruct(kind: Global, base, state=None) -> Any:
    """Create an object as the oldest protocols do."""
    return kind.make(*([] if state is None else [state]))


CONTAINERS: dict[str, Callable | Constant] = {
    "collections.OrderedDict": pairs,
    "builtins.dict": pairs,
    "__builtin__.dict": pairs,
    "builtins.bytes": no_bytes,
    "__builtin__.bytes": no_bytes,
    "builtins.set": lambda items=(): list(items),
    "builtins.frozenset": lambda items=(): list(items),
    "__builtin__.set": lambda items=(): list(items),
    "__builtin__.frozenset": lambda items=(): list(items),
    "_codecs.encode": encode,
    "copyreg._reconstructor": reconstruct,
    "copy_reg._reconstructor": reconstruct,
    "builtins.object": recorder("object"),
    "__builtin__.object": recorder("object"),
}
ARRAYS: dict[str, Callable | Constant] = {
    "numpy.dtype": dtype,
    "numpy.ndarray": recorder("numpy.ndarray"),
    **{f"numpy.{core}.multiarray.scalar": scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": recorder("numpy.ndarray") for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": recorder("numpy.ndarray") for core in ("core", "_core")},
}
