"""Refuses NaN and infinity in weights, averages and moments."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from elucid.dnnlib.errors import UserError


def require_finite(state: Any, what: str) -> None:
    """Raise UserError naming the first tensor or number in nested dicts and lists that has NaN or infinity.

    `what` says where the values are from, e.g. the name of a file. Integers are always finite.
    """
    for name in non_finite(state):
        raise UserError(f"{what}: {name} is not finite (NaN or infinity); use an older state or snapshot")


def non_finite(state: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of the values in nested dicts and lists that are not finite."""
    if isinstance(state, Tensor):
        if not is_finite(state):
            yield name
    elif isinstance(state, float):
        if not abs(state) < float("inf"):
            yield name
    elif isinstance(state, (dict, list, tuple)):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from non_finite(value, f"{name}.{key}" if name else str(key))


def is_finite(tensor: Tensor) -> bool:
    """Return whether no element is NaN or infinite, in one pass without a copy."""
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    low, high = tensor.detach().aminmax()  # NaN if there is one
    return bool((low.isfinite() & high.isfinite()).item())
