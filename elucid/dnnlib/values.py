"""Checks values of options against type annotations, and writes them as text."""

import inspect
import math
import re
import sys
import types
from dataclasses import fields
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin

from elucid.dnnlib.errors import UserError

NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
LISTS = {int: "a list of integers", float: "a list of numbers", str: "a list of strings"}

PREFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
"""Prefixes of numbers of images, as in `--batch=2Ki` or `--duration=1.5Gi`."""


def whole_images(text: str) -> int | None:
    """Return the number of images that a text with a prefix says, e.g. 2048 of `2Ki`; None for other texts.

    Raises UserError if it is no whole number of images.
    """
    match = re.fullmatch(rf"\s*(\d+(?:\.\d*)?|\.\d+)\s*({'|'.join(PREFIXES)})\s*", text)
    if match is None:
        return None
    images = Fraction(match[1]) * PREFIXES[match[2]]
    if images.denominator != 1:
        raise UserError(f"{text.strip()} is {float(images):g} images, not a whole number")
    return int(images)


def images_in(value: Any, unit: int = 1) -> Any:
    """Return a number of images in units of `unit` images: `2Ki` is 2048, or 0.002048 in millions.

    A number without a prefix is in this unit already. Raises UserError for a text that is none.
    """
    if not isinstance(value, str):
        return value
    images = whole_images(value)
    if images is None:
        try:
            number = int(value) if unit == 1 else float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"{value!r} is not a number; for images write e.g. 2048, 2Ki, 1.5Mi or 2Gi")
        return number
    if unit == 1:
        return images
    result = images / unit
    return math.nextafter(result, 0) if result * unit > images else result  # so that no step is left out or added


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


def component_name(option: str, value: Any) -> str:
    """Return the name of a component given by name or by class: `module:Name`, or `path/to/file.py:Name` of a plugin.

    Raises UserError for an object, and for a class that another process could not import, e.g. of a notebook cell.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, type):
        kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
        hint = " (objects go to elucid.train(options, hooks=[...]))" if option == "hooks" else ""
        raise UserError(
            f"`{option}` is an object of {kind}; give a name or class, and its options by `set`, as a run is resumed "
            f"from its options{hint}"
        )
    module, name = value.__module__, value.__qualname__
    if module == "__main__" or getattr(sys.modules.get(module), name, None) is not value:
        raise UserError(
            f"`{option}`: no other process can import the class {name} of {module}; write it at the top of a "
            f'file, and give its name: `{option}`="mine.py:{value.__name__}"'
        )
    return f"{sys.modules[module].__file__ if module.startswith('elucid_plugin_') else module}:{name}"


def repr_of_set(options: Any) -> str:
    """Return `Name(field=value, ...)` with the fields of a dataclass that are not None."""
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    said = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    return f"{type(options).__name__}({said})"
