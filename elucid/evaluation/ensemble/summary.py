"""Tables and curves of an ensemble evaluation, with intervals over conditions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.evaluation.bootstrap import FEW, Interval, bootstrap
from elucid.evaluation.ensemble.coverage import LEVELS, needed
from elucid.evaluation.ensemble.measure import VALUES, Ensembles
from elucid.evaluation.results import Curve, Result, Series, Table
from elucid.metrics.wilson import interval as wilson

MOST_DRAWN = 8
"""Channels with a line of their own in the chart of ranks."""

ALL = "all"


def summarise(found: Ensembles, names: Sequence[str], seed: int = 0) -> Result:
    """Return the result of an evaluation, channels in their own units; its value is the normalised fair CRPS.

    That is the mean over channels of the fair CRPS in standard deviations of the truth, 0 at best; about 0.56 for
    members drawn from the truth's own distribution without knowing the condition, if it is Gaussian.
    Raises UserError if the truth is constant.
    """
    deviation = found.deviation
    constant = [name for name, one in zip(names, deviation, strict=True) if one == 0]
    kept = np.flatnonzero(deviation > 0)
    if not len(kept):
        raise UserError("the `truth` is the same everywhere and under all conditions, so no score can be scaled by it")
    scores = bootstrap(_rows(found), _statistic(found.members, kept, deviation), seed)
    by_channel = {name: part for name, part in zip(SCORES, _parts(scores, len(SCORES)), strict=True)}
    overall = by_channel["crps_fair"]
    lines = [f"{len(found)} conditions with {found.members} members each; 95 % intervals are over conditions"]
    if 1 < len(found) < FEW:
        lines.append(f"{len(found)} conditions are few: the intervals are rough, and narrower than they should be")
    if constant:
        lines.append(f"the truth does not vary in {', '.join(constant)}: not part of the row {ALL}, in deviations")
    many = [level for level in LEVELS if level not in found.levels]
    if many:
        lines.append(f"{found.members} members are too few to tell {_listed(many)}")
    about: dict[str, Any] = {"members": found.members, "conditions": len(found), "channels": list(names)}
    about |= {"deviation_of_truth": deviation.tolist(), "seed": seed}
    return Result(
        "ensemble",
        "normalised_crps",
        float(overall.value[-1]),
        _limits(overall, -1),
        tuple(lines),
        (_errors(by_channel, names), _crps(by_channel, names), _coverage(found, names, seed), _ranks(found, names)),
        (_histogram(found, names),),
        about=about,
    )


SCORES = ("rmse", "spread", "ratio", "crps_fair", "crps", "energy", "bias")


def _statistic(members: int, kept: np.ndarray, deviation: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from means of VALUES [...,C*V] to SCORES, each of the channels and of all together.

    Those of all together are in deviations of the truth; the bias is left out, as signs would cancel.
    """
    unit = deviation[kept]

    def statistic(means: np.ndarray) -> np.ndarray:
        of = dict(zip(VALUES, np.moveaxis(means.reshape(*means.shape[:-1], -1, len(VALUES)), -1, 0), strict=True))
        of["spread"] = of["variance"] * (members + 1) / members
        normal = {name: (one[..., kept] / unit ** _power(name)).mean(-1, keepdims=True) for name, one in of.items()}
        both = {name: np.concatenate([one, normal[name]], axis=-1) for name, one in of.items()}
        rmse, spread = np.sqrt(both["squared_error"]), np.sqrt(both["spread"])
        ratio = np.divide(spread, rmse, out=np.full_like(rmse, np.nan), where=rmse > 0)
        both["bias"][..., -1] = np.nan
        others = (both[name] for name in SCORES[3:])
        return np.concatenate([rmse, spread, ratio, *others], axis=-1)

    return statistic


def _power(name: str) -> int:
    return 2 if name in ("squared_error", "variance", "spread") else 1


def _rows(found: Ensembles) -> np.ndarray:
    return found.values.reshape(len(found), -1)


def _parts(scores: Interval, count: int) -> list[Interval]:
    return [Interval(*parts) for parts in zip(*(np.split(one, count) for one in scores), strict=True)]


def _limits(one: Interval, place: int) -> tuple[float, float] | None:
    low, high = float(one.low[place]), float(one.high[place])
    return None if np.isnan(low) else (low, high)


def _cells(one: Interval, place: int) -> tuple[float | None, ...]:
    return tuple(_number(numbers[place]) for numbers in one)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pooled(names: Sequence[str]) -> list[str]:
    """Return the names of the channels, and that of all together if there are several."""
    return [*names, ALL] if len(names) > 1 else list(names)


def _labels(names: Sequence[str]) -> list[str]:
    return [*names, f"{ALL}, in deviations of the truth"]


def _errors(scores: dict[str, Interval], names: Sequence[str]) -> Table:
    rows = []
    for place, name in enumerate(_labels(names)):
        spread, bias = _number(scores["spread"].value[place]), _number(scores["bias"].value[place])
        rows.append((name, bias, *_cells(scores["rmse"], place), spread, *_cells(scores["ratio"], place)))
    columns = ("channel", "bias", "RMSE", "low", "high", "spread", "spread/RMSE", "low", "high")
    return Table(
        "Error of the ensemble mean, and spread; the ratio is 1 if the ensemble is calibrated", columns, tuple(rows)
    )


def _crps(scores: dict[str, Interval], names: Sequence[str]) -> Table:
    rows = []
    for place, name in enumerate(_labels(names)):
        plain, energy = (_number(scores[one].value[place]) for one in ("crps", "energy"))
        rows.append((name, *_cells(scores["crps_fair"], place), plain, energy))
    columns = ("channel", "fair CRPS", "low", "high", "CRPS", "fair energy score")
    return Table("Scores, lower is better", columns, tuple(rows))


def _coverage(found: Ensembles, names: Sequence[str], seed: int) -> Table:
    covered = found.covered
    flat = covered.reshape(len(found), -1)
    limits = bootstrap(flat, lambda means: means, seed)
    shape = covered.shape[1:]
    value, low, high = (one.reshape(shape) for one in limits)
    rows = []
    for channel, name in enumerate(_pooled(names)):
        row: list[Any] = [name]
        for level in range(len(found.levels)):
            ends = low[channel, level], high[channel, level]
            if np.ptp(covered[:, channel, level]) == 0 and len(found) > 1:  # from which no draw differs
                ends = wilson(float(value[channel, level]), len(found))
            row += [_number(100 * one) for one in (value[channel, level], *ends)]
        rows.append(tuple(row))
    texts = [f"{100 * level:.4g} %" if level in LEVELS else f"range ({100 * level:.4g} %)" for level in found.levels]
    columns = [column for text in texts for column in (text, "low", "high")]
    return Table("Percentage of the truth in central intervals", ("channel", *columns), tuple(rows))


def _ranks(found: Ensembles, names: Sequence[str]) -> Table:
    rows = []
    for name, histogram in zip(_pooled(names), found.histograms, strict=False):
        test = histogram.flatness(found.bins.expected)
        numbers = (None, None, None) if test is None else (test.chi2, test.df, test.p)
        ends = (100 * float(histogram.mean[place] / found.bins.expected[place]) for place in (0, -1))
        rows.append((name, *numbers, *ends))
    columns = ("channel", "chi2", "df", "p", "lowest, % of flat", "highest, % of flat")
    return Table("Flatness of the rank histogram, tested over conditions", columns, tuple(rows))


def _histogram(found: Ensembles, names: Sequence[str]) -> Curve:
    shown = list(zip(_pooled(names), found.histograms, strict=False))
    shown = shown[-1:] if len(names) > MOST_DRAWN else shown
    series = []
    for name, histogram in shown:
        height, half = histogram.mean / found.bins.expected, 1.96 * histogram.error / found.bins.expected
        points = tuple(zip(found.bins.middles.tolist(), height.tolist(), strict=True))
        limits = tuple(zip((height - half).tolist(), (height + half).tolist(), strict=True))
        series.append(Series(name, points, None if np.isnan(half).any() else limits))
    x = "rank of the truth: 0 below, 1 above all members"
    return Curve("Rank histogram", x, "frequency, 1 if flat", tuple(series))


def _listed(levels: Sequence[float]) -> str:
    return ", ".join(f"the {100 * level:.4g} % interval ({needed(level)} needed)" for level in levels)
