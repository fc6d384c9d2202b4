"""The measures of memorisation as text, tables and a curve."""

from dataclasses import dataclass

import numpy as np

from elucid.evaluation.memorisation.measures import QUANTILES, Around, Measures
from elucid.evaluation.results import Curve, Result, Series, Table

SAME = 1e-5
"""Images whose distance is below this part of the median distance have the same features up to rounding."""

UNLIKELY = 0.01
"""A chance below this counts as a sign of copies."""

POINTS = 101


@dataclass(frozen=True)
class Findings:
    """What was measured: `planted` has kind and number of copies with the measures, `num_train` the training images."""

    samples: Around
    held_out: Around
    measures: Measures
    planted: tuple[tuple[str, int, Measures], ...]
    cells: int
    num_train: int


def summarise(found: Findings, detector: str) -> Result:
    """Return the result; its value is the percentage of samples nearer to a training image than 5 % of the held-out."""
    share = found.measures.shares[0]
    numbers = {"samples": len(found.samples.distances), "test_images": len(found.held_out.distances)}
    used = {"cells": found.cells, "cells_used": found.measures.copying.cells, "train_images": found.num_train}
    return Result(
        kind="memorisation",
        name=f"percent_nearer_{detector}",
        value=100 * share.value,
        interval=(100 * share.interval[0], 100 * share.interval[1]),
        lines=tuple(_lines(found)),
        tables=(_measures(found), _control(found)),
        curves=(_curve(found),),
        about={**numbers, **used, "detector": detector},
    )


def _measures(found: Findings) -> Table:
    """The measures of the samples beside their values for held-out images, or what theory says of these."""
    measures, rows = found.measures, []
    for part, share in zip(QUANTILES, measures.shares, strict=True):
        if share is not None:
            usual = f"{100 * share.expected:.3g}, in 95 % of cases {_range(share.normal, 100)}"
            rows.append((f"nearer than {100 * part:g} % of held-out images, %", *_percent(share), usual))
    value, interval = measures.nearer
    rows.append(("probability to be nearer than a held-out image", value, *interval, "0.5"))
    copying = measures.copying
    if np.isfinite(copying.value):
        usual = f"0, standard deviation {copying.deviation:.2g}; below: copies"
        rows.append((f"C_T, {copying.cells} of {found.cells} cells", copying.value, None, None, usual))
    own = Measures.of(found.held_out, found.held_out, found.cells)
    usual = f"held-out images: {own.authentic:.4g} ({_range(own.authentic_interval)})"
    rows.append(("AuthPct", measures.authentic, *measures.authentic_interval, usual))
    return Table("Samples", ("measure", "value", "low", "high", "without copying"), tuple(rows))


def _control(found: Findings) -> Table:
    """The measures with copies of training images in place of some samples."""
    names = [f"nearer than {100 * part:g} %" for part in QUANTILES]
    columns = ("planted copies", "number", "%", *names, "P(nearer)", "C_T", "AuthPct")
    total, rows = len(found.samples.distances), [_row("none", 0, found.measures, 1)]
    rows += [_row(kind, count, measures, total) for kind, count, measures in found.planted]
    return Table("Control: the same with copies of training images in place of samples", columns, tuple(rows))


def _row(kind: str, count: int, measures: Measures, total: int) -> tuple:
    shares = [None if share is None else 100 * share.value for share in measures.shares]
    copying = measures.copying.value
    own = (kind, count, 100 * count / total, *shares, measures.nearer[0])
    return (*own, copying if np.isfinite(copying) else None, measures.authentic)


def _lines(found: Findings) -> list[str]:
    lines = []
    usual = np.median(found.held_out.distances)
    for what, around in (("held-out images", found.held_out), ("samples", found.samples)):
        same = int((around.distances <= SAME * usual).sum())
        if same:
            lines.append(f"{same} of {len(around.distances)} {what} are the same as a training image")
    if not np.isfinite(found.measures.copying.value):
        lines.append("C_T is left out: no cell holds more than 20 samples and a held-out image")
    shares = [share for share in found.measures.shares if share is not None]
    chance = min(1.0, len(shares) * min(share.chance for share in shares))  # Bonferroni's
    if chance < UNLIKELY:
        what = "more samples are very near to training images than held-out images are: look at the sheet"
    else:
        what = "no more samples are very near to training images than held-out images are"
    lines.append(f"{what} (chance of as many or more without copying: {chance:.2g})")
    value, (low, high) = found.measures.nearer
    if high < 0.5:
        lines.append(
            "samples lie farther from training images than held-out images do; C_T and P(nearer) hide copies then"
        )
    elif low > 0.5:
        lines.append(
            f"samples as a whole are nearer to training images: a held-out image is farther in {100 * value:.0f} %"
        )
    return lines


def _curve(found: Findings) -> Curve:
    at = np.linspace(0, 1, POINTS)
    series = [
        Series(name, tuple(zip(np.quantile(around.distances, at).tolist(), at.tolist(), strict=True)))
        for name, around in (("samples", found.samples), ("held-out images", found.held_out))
    ]
    return Curve("Distance to the nearest training image", "distance", "part of the images", tuple(series))


def _percent(share) -> tuple[float, float, float]:
    return 100 * share.value, 100 * share.interval[0], 100 * share.interval[1]


def _range(limits: tuple[float, float], scale: float = 1) -> str:
    return f"{scale * limits[0]:.3g} to {scale * limits[1]:.3g}"
