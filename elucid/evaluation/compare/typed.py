"""Scores that are typed in: `A: 1.77,1.79,1.80`."""

import re
from collections.abc import Sequence

from elucid.dnnlib.errors import UserError
from elucid.evaluation.compare.groups import Group


def typed_groups(texts: Sequence[str], cv: float | None = None) -> list[Group]:
    """Return a group for each text `NAME: NUMBER,NUMBER,...`, one number for each training.

    `cv` is the coefficient of variation between trainings to assume for all groups. Raises UserError for other texts,
    fewer than two, and a group of one number without `cv`.
    """
    if len(texts) < 2:
        raise UserError("`scores` of one recipe; give at least two: --scores='A: 1.77,1.79' --scores='B: 1.82,1.85'")
    groups = [_group(text, cv) for text in texts]
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise UserError(f"`scores`: two recipes are named {max(names, key=names.count)}; give each its own name")
    return groups


def share(text: str) -> float:
    """Return `1.3%` or `0.013` as a number. Raises UserError unless it is above 0 and below 1."""
    match = re.fullmatch(r"\s*(\d*\.?\d+(?:e-?\d+)?)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise UserError(f"`cv`={text} is not a share; give 1.3% or 0.013")
    return value


def _group(text: str, cv: float | None) -> Group:
    name, colon, numbers = text.rpartition(":")
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    if not colon or not name.strip() or not values:
        raise UserError(f"`scores`={text!r} is not of the form 'NAME: 1.77,1.79,1.80'")
    if len(values) == 1 and cv is None:
        raise UserError(
            f"`scores`: {name.strip()} has one number, so its spread between trainings is unknown; give more, or "
            "assume one by `cv`=1.3%"
        )
    return Group(name.strip(), tuple((value,) for value in values), cv)
