"""Pickles of plain numpy arrays, read without running anything that they name."""

import io
import pickle

import numpy as np

from elucid.dnnlib.errors import UserError


def load_arrays(data: bytes, name: str) -> object:
    """The dictionaries, lists, strings, numbers and numeric arrays of a pickle.

    Raises UserError when it asks for any other class or function, or is damaged.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except _DAMAGE as error:
        raise UserError(f"{name} is a damaged pickle ({error}); download it again") from error


_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    OverflowError,
    MemoryError,
)


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the three names that an array consists of, whatever numpy's version called their modules."""

    def find_class(self, module: str, name: str) -> object:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _new_array
        if (module, name) == ("numpy", "ndarray"):
            return _Named
        if (module, name) == ("numpy", "dtype"):
            return _number_type
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise UserError(f"its pickle asks for {module}.{name}, which is no array; it was not read")


class _Named:
    """Stands for a class that the pickle names but need not get."""


def _new_array(kind: type, shape: tuple, letters: bytes) -> np.ndarray:
    """An empty array that the pickle then fills."""
    return np.ndarray((0,), dtype=np.int8)


def _number_type(code: bytes | str, *_: object) -> np.dtype:
    # A copy: the pickle sets its byte order, which must not touch numpy's own.
    kind = np.dtype(code.decode() if isinstance(code, bytes) else code, copy=True)
    if kind.kind not in "biuf":
        raise UserError(f"its pickle holds an array of {kind}, not of numbers; it was not read")
    return kind


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    return text.encode("latin1")
