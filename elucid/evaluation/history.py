"""Scores of one model in the course of its training: kept in a file, the best of them, the images to a given score."""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elucid.dnnlib.files import append_line, write_output
from elucid.evaluation.results import Curve, Result, Series, Table
from elucid.metrics.measures.evaluate import Metric
from elucid.metrics.measures.names import HIGHER_IS_BETTER


def better(metric: str, value: float, other: float) -> bool:
    """Return whether a value of a metric is better than another; any number is better than NaN."""
    if math.isnan(other):
        return not math.isnan(value)
    return value > other if metric in HIGHER_IS_BETTER else value < other


def metric_of(values: dict[str, Any]) -> Metric:
    """Return the metric of a line of JSON, the inverse of its `as_dict`."""
    return Metric(**{**values, "interval": values["interval"] and tuple(values["interval"])})


@dataclass(frozen=True)
class Record:
    """Scores after `nimg` images of training; the first of `metrics` decides.

    `made_by` is the digest of everything else that decides the scores, and `about` what else is known, as plain data.
    """

    nimg: int
    metrics: tuple[Metric, ...]
    made_by: str
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> Metric:
        return self.metrics[0]

    def line(self) -> str:
        """One line of JSON."""
        metrics = [metric.as_dict() for metric in self.metrics]
        return json.dumps({"nimg": self.nimg, "metrics": metrics, "made_by": self.made_by, "about": self.about})


def read_record(line: str) -> Record | None:
    """Read a line of JSON; None if it is incomplete, as after a kill, or something else."""
    try:
        values = json.loads(line)
        made = tuple(metric_of(one) for one in values["metrics"])
        return Record(int(values["nimg"]), made, str(values["made_by"]), dict(values["about"])) if made else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def append_record(path: Path, line: str) -> None:
    """Append a line, not to what a killed process left of another one; a missing folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size
    append_line(path, f"\n{line}" if incomplete else line)


class History:
    """The records in a file of JSON lines, in the order in which they were made.

    `records` are those with the digest `made_by`; the others, made in another way, stay in the file.
    """

    def __init__(self, path: str | os.PathLike, made_by: str):
        self.path, self.made_by = Path(path), made_by
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        self._all = [record for record in map(read_record, lines) if record is not None]

    @property
    def records(self) -> list[Record]:
        return [record for record in self._all if record.made_by == self.made_by]

    def cut(self, nimg: int, write: bool = True) -> None:
        """Forget what was scored after `nimg` images, since the run goes on from there and will score it again.

        Also removes a line that a killed process left incomplete. Only one process may `write`.
        """
        self._all = [record for record in self._all if record.nimg <= nimg]
        if write and self.path.is_file():
            with write_output(self.path) as file:
                file.write("".join(record.line() + "\n" for record in self._all).encode())

    def add(self, record: Record, write: bool = True) -> None:
        """Append a record; only one process may `write` it to the file."""
        self._all.append(record)
        if write:
            append_record(self.path, record.line())


def best(records: Sequence[Record]) -> Record | None:
    """Return the record with the best first metric, of equals the earliest."""
    found: Record | None = None
    for record in sorted(records, key=lambda one: one.nimg):
        if found is None or better(record.first.metric, record.first.value, found.first.value):
            found = record
    return found


def first_to_reach(records: Sequence[Record], target: float) -> Record | None:
    """Return the earliest record whose first metric is at least as good as `target`."""
    for record in sorted(records, key=lambda one: one.nimg):
        value = record.first.value
        if value == target or better(record.first.metric, value, target):
            return record
    return None


def reached(record: Record, target: float, num_images: int | None) -> str:
    """Say how many images it took to reach a score, and how many epochs of a data set of `num_images`."""
    epochs = f" ({record.nimg / num_images:.4g} epochs)" if num_images else ""
    return f"reached {record.first.name} {target:g} after {images_text(record.nimg)}{epochs}"


def images_text(nimg: int) -> str:
    """Return a number of training images in thousands or millions."""
    return f"{nimg / 1e6:.4g} Mimg" if nimg >= 1e6 else f"{nimg / 1e3:.4g} kimg"


def as_result(
    kind: str,
    records: Sequence[Record],
    about: dict[str, Any],
    lines: Sequence[str] = (),
    named: Callable[[Record], str] | None = None,
) -> Result:
    """Return the best score, a table of all, and for each metric a curve over the images seen, with its intervals.

    `named` gives the text of a record in the table's first column, e.g. the name of its snapshot.
    """
    ordered = sorted(records, key=lambda one: one.nimg)
    top = best(ordered)
    if top is None:
        raise ValueError("there are no records")
    names = [metric.name for metric in top.metrics]
    rows, points = [], {name: ([], []) for name in names}
    for record in ordered:
        row: list[Any] = [*([named(record)] if named else []), record.nimg / 1000]
        for metric in record.metrics:
            row += [metric.value, *(metric.interval or (None, None))]
            points[metric.name][0].append((record.nimg / 1000, metric.value))
            points[metric.name][1].append(metric.interval)
        rows.append(tuple(row))
    columns = [column for name in names for column in (name, "low", "high")]
    table = Table("scores", (*(["snapshot"] if named else []), "kimg", *columns), tuple(rows))
    curves = [
        Curve(name, "thousands of images", name, (Series(name, tuple(xy), _whole(intervals)),))
        for name, (xy, intervals) in points.items()
    ]
    where = f"best {top.first.name} {top.first.value:.6g} at {top.nimg / 1000:g} kimg"
    where += f": {named(top)}" if named else ""
    found = (top.first.name, top.first.value, top.first.interval)
    return Result(kind, *found, (*lines, where), (table,), tuple(curves), about=about)


def _whole(intervals: Sequence[tuple[float, float] | None]) -> tuple[tuple[float, float], ...] | None:
    """The intervals, if there is one at each point."""
    known = tuple(one for one in intervals if one is not None)
    return known if len(known) == len(intervals) else None
