"""The sections of settings, their differences first, and of the environment in which runs were started."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from elucid.evaluation.markup import Markup, element
from elucid.evaluation.report.collect import RunRecord
from elucid.evaluation.report.tables import cell, flat, framed, side_by_side, text

ENVIRONMENT = ("command", "folder", "elucid", "commit", "python", "torch", "cuda", "host", "device")
ENVIRONMENT += ("processes", "threads")
"""Entries of run.json that have a row, in this order."""


def settings(runs: Sequence[RunRecord]) -> Markup | None:
    """Return all options of the runs as a table; of several runs the options that differ come first."""
    options = [dict(flat(run.options)) for run in runs]
    paths = list(dict.fromkeys(path for one in options for path in one if path))
    if not paths:
        return None
    rows = [(path, ["none" if one.get(path, 0) is None else one.get(path) for one in options]) for path in paths]
    names = [run.name for run in runs]
    if len(runs) == 1:
        return element("div", *_parts(rows), class_="parts")
    whole = side_by_side("All settings", names, rows)
    differing = [row for row in rows if any(value != row[1][0] for value in row[1])]
    first = side_by_side("Settings that differ", names, differing) if differing else element("p", "All are the same.")
    return element("div", first, element("details", element("summary", f"All {len(rows)} settings"), whole))


def environment(runs: Sequence[RunRecord]) -> Markup | None:
    """Return where and how the runs were started last, and when each start began and ended."""
    if not any(run.starts for run in runs):
        return None
    last = [run.starts[-1] if run.starts else {} for run in runs]
    keys = [key for key in ENVIRONMENT if any(key in one for one in last)]
    rows = [(key, [one.get(key) for one in last]) for key in keys]
    names = [run.name for run in runs] if len(runs) > 1 else ["value"]
    heads = [element("th", head, scope="col") for head in ("run", "started", "ended", "from image", "to image")]
    starts = framed("Starts and stops", heads, _starts(runs), class_="texts")
    return element("div", side_by_side("Last start", names, rows), starts)


def _parts(rows: Sequence[tuple[str, Sequence[Any]]]) -> Iterator[Markup]:
    """Yield a table for each part, e.g. `network`, with the options of one run."""
    for part, options in groupby(rows, key=lambda row: row[0].partition(".")[0]):
        body = [
            [element("th", path.partition(".")[2] or part, scope="row"), element("td", text(value))]
            for path, (value,) in options
        ]
        yield framed(part, (), body, class_="texts")


def _starts(runs: Sequence[RunRecord]) -> Iterator[list[Markup]]:
    for run in runs:
        for one in run.starts:
            entries: list[Any] = [one.get(key) for key in ("started", "ended", "from_nimg", "nimg")]
            yield [cell(run.name), *map(cell, entries)]
