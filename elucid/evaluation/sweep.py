"""The best of many settings with few samples: successive halving over a grid, which is refined around the best."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from elucid.dnnlib.errors import UserError

POINTS = 5
"""Values of a range that are tried first."""

LEAST = 16
"""Fewest images in a round, below which scores decide little."""

MOST = 1000
"""Largest number of settings to begin with."""

Setting = tuple[Any, ...]
"""A value for each axis."""


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`; whole numbers only if both are integers."""

    low: float
    high: float

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"{self.low:g}:{self.high:g} is no range; write the smaller number first, e.g. 1:4")

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Axis:
    """An option and the values to try first, in order; between those of a `refined` one, others are tried later."""

    name: str
    values: tuple[Any, ...]
    refined: bool = False
    whole: bool = False

    @classmethod
    def of(cls, name: str, given: Range | Sequence[Any]) -> "Axis":
        """Return an axis of a range, or of a list. Raises UserError for an empty list or one with equal values."""
        if isinstance(given, Range):
            step = (given.high - given.low) / (POINTS - 1)
            values = [_rounded(given.low + index * step, given.whole) for index in range(POINTS)]
            return cls(name, tuple(dict.fromkeys(values)), True, given.whole)
        if not given or len(set(given)) < len(given):
            raise UserError(f"`{name}`: the list {','.join(map(str, given))} must have different values")
        return cls(name, tuple(given))


@dataclass(frozen=True)
class Trial:
    """A setting scored with `num` images."""

    setting: Setting
    num: int
    score: float


@dataclass(frozen=True)
class Search:
    """What was tried, in order: `best` is the best of those with all images, and `samples` how many were drawn."""

    trials: tuple[Trial, ...]
    best: Trial
    samples: int

    @property
    def of_grid(self) -> int:
        """Samples that all settings with all images would have taken."""
        return len({trial.setting for trial in self.trials}) * self.best.num


def round_sizes(num: int, rounds: int) -> list[int]:
    """Return the number of images in each round: each has twice as many as the one before, the last `num`."""
    sizes = [-(-num // 2**before) for before in reversed(range(rounds))]
    return [size for size in sizes if size >= LEAST] or [num]


def survivors(settings: int, rounds: int) -> list[int]:
    """Return how many settings are kept after each round but the last: a constant share, so that two reach the last."""
    if settings <= 2:
        return [settings] * (rounds - 1)
    return [math.ceil(settings * (2 / settings) ** (done / (rounds - 1))) for done in range(1, rounds)]


def search(
    axes: Sequence[Axis],
    num: int,
    rounds: int,
    score: Callable[[Setting, int], float],
    valid: Callable[[Setting], bool] = lambda setting: True,
) -> Search:
    """Find the setting with the lowest score: `score(setting, num)` scores the first `num` images of a setting.

    Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943) with the same seeds for all settings: each round
    doubles the images of the settings that are left and keeps the best, until two reach the last round. After each
    round the midpoints between the best value of a range and its neighbours join. Images of earlier rounds count.
    Raises UserError if there are too many settings, or none that is `valid`.
    """
    settings = first_grid(axes, valid)
    sizes = round_sizes(num, rounds)
    keep = survivors(len(settings), len(sizes))
    trials: list[Trial] = []
    drawn: dict[Setting, int] = {}
    for done, size in enumerate(sizes):
        results = []
        for setting in settings:
            results.append(Trial(setting, size, score(setting, size)))
            drawn[setting] = size
        trials += results
        ordered = sorted(results, key=lambda trial: math.inf if math.isnan(trial.score) else trial.score)
        if done < len(keep):
            settings = [trial.setting for trial in ordered[: keep[done]]]
            settings += [one for one in between(axes, ordered[0].setting, drawn) if valid(one)]
    return Search(tuple(trials), ordered[0], sum(drawn.values()))


def first_grid(axes: Sequence[Axis], valid: Callable[[Setting], bool]) -> list[Setting]:
    """Return the settings to begin with."""
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise UserError(f"these lists and ranges make {count} settings, more than {MOST}; give shorter lists")
    settings = [setting for setting in itertools.product(*(axis.values for axis in axes)) if valid(setting)]
    if not settings:
        raise UserError("no setting is valid: the interval of guidance is empty in all of them")
    return settings


def between(axes: Sequence[Axis], setting: Setting, tried: dict[Setting, int]) -> Iterator[Setting]:
    """Yield the settings halfway to the neighbours of this one on each axis that is refined, if they are new."""
    for place, axis in enumerate(axes):
        if not axis.refined:
            continue
        known = sorted({other[place] for other in tried})
        at = known.index(setting[place])
        for neighbour in known[max(at - 1, 0) : at] + known[at + 1 : at + 2]:
            value = _rounded((setting[place] + neighbour) / 2, axis.whole)
            new = (*setting[:place], value, *setting[place + 1 :])
            if value not in known and new not in tried:
                yield new


def _rounded(value: float, whole: bool) -> float | int:
    """Six digits, as people read and type them."""
    return round(value) if whole else float(f"{value:.6g}")
