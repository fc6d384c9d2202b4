"""The section that says in a few lines what came of each run."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from elucid.evaluation.axes import drawable, number
from elucid.evaluation.markup import Markup, element
from elucid.evaluation.report.collect import RunRecord, best
from elucid.evaluation.report.curves import SPEED, dot
from elucid.evaluation.report.tables import side_by_side
from elucid.training.loggers.console import format_time


def summary(runs: Sequence[RunRecord]) -> Markup:
    """Return a card for each run, and the values of saved results side by side."""
    cards = (_card(place, run, several=len(runs) > 1) for place, run in enumerate(runs))
    return element("div", element("div", *cards, class_="cards"), _scores(runs))


def facts(run: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Yield (what, value, remark): images seen, time, last loss, best scores."""
    kimg = run.stats.get("Progress/kimg")
    if kimg is not None and kimg.kimg:
        planned = run.option("loop.duration_mimg")
        whole = isinstance(planned, int | float) and drawable(planned)
        yield "images seen", f"{kimg.kimg[-1] * 1000:,.0f}", f"of {planned * 1e6:,.0f}" if whole else ""
    seconds, speed = (run.stats.get(name) for name in ("Timing/total_sec", SPEED))
    if seconds is not None and math.isfinite(seconds.last):
        known = speed is not None and math.isfinite(speed.last)
        yield "time", format_time(seconds.last), f"{number(speed.last, 3)} images/s" if known and speed else ""
    loss = run.stats.get("Loss/loss")
    if loss is not None and (least := best("loss", loss)):
        yield "last loss", number(loss.last), f"lowest {number(least[1])} at {number(least[0])} thousand images"
    for name, statistic in run.stats.items():
        if name.startswith("Eval/") and (found := best(name, statistic)):
            remark = f"at {number(found[0])} thousand images; last {number(statistic.last)}"
            yield f"best {name.removeprefix('Eval/')}", number(found[1]), remark


def _card(place: int, run: RunRecord, several: bool) -> Markup:
    entries = (
        element("div", element("dt", what), element("dd", value), element("dd", remark, class_="remark"))
        for what, value, remark in facts(run)
    )
    title = element("h3", dot(place), element("span", run.name, class_="name")) if several else None
    path = element("p", str(run.folder), class_="path")
    return element("article", title, path, element("dl", *entries, class_="facts"), class_="card")


def _scores(runs: Sequence[RunRecord]) -> Markup | None:
    """Return the values of the results of all runs."""
    values: dict[str, list[Any]] = {}
    for place, run in enumerate(runs):
        for _, result in run.results:
            low_high = "" if result.interval is None else f" ({' to '.join(map(number, result.interval))})"
            row = values.setdefault(f"{result.kind}: {result.name}", [None] * len(runs))
            row[place] = f"{number(result.value)}{low_high}"
    names = [run.name for run in runs] if len(runs) > 1 else ["value"]
    return side_by_side("Results, with 95 % intervals", names, values.items()) if values else None
