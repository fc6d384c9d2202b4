"""Operators, methods and noise as the texts of a command line: NAME, NAME:VALUE, or NAME:VALUE,option=value."""

import re
from typing import Any

from elucid.dnnlib.config import parse_value
from elucid.dnnlib.errors import UserError, did_you_mean
from elucid.dnnlib.plugins import installed
from elucid.dnnlib.values import fits, signature
from elucid.training.inverse.noise import NOISES, MeasurementNoise
from elucid.training.registry.components import find
from elucid.training.registry.names import TABLES

PARTS = {"posterior": ("denoiser", "problem")}
"""Arguments of constructors that are not options, by kind."""


def component_of(text: str | dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the component that a text means, e.g. of `blur:1.5,boundary=zero` or `mine.py:Name,option=value`.

    VALUE is the first option. Names from outside contain a colon themselves, and have no VALUE. Values are JSON or else
    strings; a comma separates options where a name and `=` follow. Raises UserError for other texts and unknown names.
    """
    if isinstance(text, dict):
        return text
    first, *others = re.split(r",(?=[A-Za-z_]\w*=)", text)
    name, colon, value = first.partition(":")
    if colon and name not in TABLES[kind] and name not in installed(kind):
        name, colon, value = first, "", ""
    component: dict[str, Any] = {"name": name}
    target = find(kind, name)
    arguments = {key: one for key, one in signature(target).parameters.items() if key not in PARTS.get(kind, ())}
    if colon:
        if not arguments:
            raise UserError(f"`{kind}`={text}: {name} has no options; write `{kind}`={name}")
        option = next(iter(arguments))
        component[option] = value_of(value, arguments[option].annotation)
    for one in others:
        option, _, value = one.partition("=")
        if option in component:
            raise UserError(f"`{kind}`={text} gives {option} twice; leave one out")
        component[option] = value_of(value, arguments[option].annotation if option in arguments else Any)
    missing = next((key for key, one in arguments.items() if one.default is one.empty and key not in component), None)
    if missing is not None:
        raise UserError(f"`{kind}`={text}: {name} needs {missing}; write `{kind}`={name}:{missing.upper()}")
    return component


def value_of(text: str, wanted: Any) -> Any:
    """Return a value as JSON if that is of the annotated type, as 2 of a number, or else the text, as of a path."""
    value = parse_value(text)
    return value if fits(value, wanted) or not fits(text, wanted) else text


def noise_of(text: str | float | MeasurementNoise) -> MeasurementNoise:
    """Return the noise that `gaussian:STD`, `poisson:GAIN` or STD alone means. Raises UserError for other texts."""
    if isinstance(text, MeasurementNoise):
        return text
    name, colon, value = str(text).partition(":")
    if not colon and name not in NOISES:
        name, value = "gaussian", name
    if name not in NOISES:
        raise UserError(
            f"`measurement_noise`={text}: unknown kind{did_you_mean(name, NOISES)}; write gaussian:STD or poisson:GAIN"
        )
    try:
        if name == "gaussian" and "," in value:  # one for each channel
            return NOISES[name]([float(one) for one in value.split(",")])  # type: ignore[arg-type]
        number = float(value)
    except ValueError as error:
        raise UserError(
            f"`measurement_noise`={text} is not a kind and a number; write e.g. gaussian:5 or poisson:10"
        ) from error
    return NOISES[name](number)
