"""Checks values of options against type annotations."""

import inspect
import types
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin

NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
LISTS = {int: "a list of integers", float: "a list of numbers", str: "a list of strings"}


def fits(value: Any, wanted: Any) -> bool:
    """Return whether the value is of the annotated type; True for types that options usually do not have.

    Integers are accepted as floats, 0 and 1 as booleans, and tuples as lists.
    """
    if get_origin(wanted) in (Union, types.UnionType):
        return any(fits(value, choice) for choice in get_args(wanted))
    if get_origin(wanted) is list:
        return isinstance(value, (list, tuple)) and all(fits(item, get_args(wanted)[0]) for item in value)
    if wanted is bool:
        return isinstance(value, bool) or (isinstance(value, Integral) and value in (0, 1))
    if wanted in (int, float):
        number = isinstance(value, Integral if wanted is int else Real) and not isinstance(value, bool)
        return number and value == value  # not NaN
    return isinstance(value, wanted) if wanted in (str, type(None)) else True


def is_data(value: Any) -> bool:
    """Return whether a value can be written as JSON, as required for options in states and snapshots."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_data(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_data(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def described(wanted: Any) -> str:
    """Describe the annotated type in words, e.g. `a list of numbers or a number`."""
    if get_origin(wanted) in (Union, types.UnionType):
        return " or ".join(described(choice) for choice in get_args(wanted))
    if get_origin(wanted) is list:
        return LISTS.get(get_args(wanted)[0], "a list")
    return NAMES.get(wanted, getattr(wanted, "__name__", str(wanted)))


def signature(target: Any) -> inspect.Signature:
    """Return the signature, with string annotations resolved if possible."""
    try:
        return inspect.signature(target, eval_str=True)
    except (NameError, TypeError, SyntaxError, AttributeError):
        return inspect.signature(target)
