"""The section of curves: loss, scores, learning rate and speed by images seen, all runs in one chart each."""

import math
from collections.abc import Sequence

from elucid.evaluation.charts import MOST_POINTS, chart, colour_class, log_scale, swatch
from elucid.evaluation.markup import Markup, element
from elucid.evaluation.report.collect import RunRecord
from elucid.evaluation.results import Curve, Series

SPEED = "Timing/images_per_sec"
HIDDEN = ("Progress/", "Resources/", "Timing/")
"""Statistics that have no chart, except the speed."""

COUNTS = frozenset({"Optimizer/steps_left_out"})
"""Counts of what went wrong, which have a chart only if it did."""

FIRST, LAST = ("Loss/", "Eval/"), ("Optimizer/", "Timing/")
"""Groups whose charts come first and last."""

SCORES = "Eval/"
"""Scores are computed at some ticks only, so that their lines have no gaps where they are missing."""

IMAGES = "images seen, thousands"
MOST_CHARTS = 24


def curves(runs: Sequence[RunRecord]) -> Markup | None:
    """Return the charts of all statistics with a finite value, of counts with one above 0; None if there are none."""
    names = list(dict.fromkeys(name for run in runs for name in run.stats if _has_chart(run, name)))
    names.sort(key=_order)
    if not names:
        return None
    figures = [figure(*_curve(name, runs)) for name in names[:MOST_CHARTS]]
    thinned = any(len(one.kimg) > MOST_POINTS for run in runs for one in run.stats.values())
    notes = [
        f"Of longer curves {MOST_POINTS} points are drawn, at equal distances." if thinned else None,
        f"{len(names) - MOST_CHARTS} more are in stats.jsonl." if len(names) > MOST_CHARTS else None,
    ]
    written = " ".join(note for note in notes if note)
    return element(
        "div",
        legend([run.name for run in runs]) if len(runs) > 1 else None,
        element("div", *figures, class_="charts"),
        element("p", written, class_="note") if written else None,
    )


def legend(names: Sequence[str]) -> Markup:
    """Return the names of runs with their colours."""
    items = (element("li", swatch(place), element("span", name, class_="name")) for place, name in enumerate(names))
    return element("ul", *items, class_="legend")


def figure(curve: Curve, colours: Sequence[int] | None = None) -> Markup:
    """Return a chart with its title; the page's script shows the values under the mouse."""
    return element("figure", element("figcaption", curve.title), chart(curve, colours), class_="chart-box")


def dot(place: int) -> Markup:
    """Return a mark in the colour of a run."""
    return element("span", class_=f"mark {colour_class(place)}", aria_hidden="true")


def _order(name: str) -> int:
    groups = (*FIRST, "", *LAST)
    return next((place for place, group in enumerate(groups) if group and name.startswith(group)), len(FIRST))


def _has_chart(run: RunRecord, name: str) -> bool:
    if name.startswith(HIDDEN) and name != SPEED:
        return False
    finite = [value for value in run.stats[name].values if math.isfinite(value)]
    return any(finite) if name in COUNTS else bool(finite)


def _curve(name: str, runs: Sequence[RunRecord]) -> tuple[Curve, list[int]]:
    """Return the curve of a statistic and the colours of the runs that have it."""
    having = [(place, run) for place, run in enumerate(runs) if name in run.stats]
    series = [Series(run.name, run.stats[name].points(every=not name.startswith(SCORES))) for _, run in having]
    values = [value for one in series for _, value in one.points if math.isfinite(value)]
    log = not name.startswith(("Timing/", "Optimizer/lr")) and log_scale(values)
    unit = "images per second" if name == SPEED else name.rpartition("/")[2]
    title = "Speed" if name == SPEED else name
    return Curve(title, IMAGES, f"{unit}, log scale" if log else unit, tuple(series), log_y=log), [p for p, _ in having]
