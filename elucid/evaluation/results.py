"""The result of an evaluation: text, tables, curves and pictures, printed, saved as JSON and shown in a report."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.dnnlib.reading.json_text import read_json
from elucid.evaluation.charts import drawing

FOLDER = "evaluations"
"""Results saved in this folder of a run are part of its report."""


@dataclass(frozen=True)
class Table:
    """Rows of numbers and text under named columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def text(self) -> str:
        """Return the table as aligned text: numbers to the right, with five digits."""
        cells = [list(self.columns), *([_cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.columns))]
        right = [
            all(isinstance(row[column], int | float) or row[column] is None for row in self.rows)
            for column in range(len(self.columns))
        ]
        lines = [
            "  ".join(
                cell.rjust(width) if to_the_right else cell.ljust(width)
                for cell, width, to_the_right in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n".join([self.title, *(f"  {line}" for line in lines)])


@dataclass(frozen=True)
class Series:
    """A line of a curve: points (x, y), and perhaps the limits (low, high) of a 95 % interval at each."""

    name: str
    points: tuple[tuple[float, float], ...]
    intervals: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class Curve:
    """Lines over a common axis; `x` and `y` name the axes, with their units."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture file, its path relative to the result's file."""

    title: str
    file: str


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    `kind` is the subcommand, `name` and `value` its main number, with a 95 % interval if there is one, and `about` says
    how it was computed, completely enough to do it again.
    """

    kind: str
    name: str
    value: float
    interval: tuple[float, float] | None = None
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    curves: tuple[Curve, ...] = ()
    pictures: tuple[Picture, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<elucid.Result {self.headline}>"

    @property
    def headline(self) -> str:
        """Name, value and interval as text."""
        low_high = "" if self.interval is None else " (95 % interval {:.5g} to {:.5g})".format(*self.interval)
        return f"{self.name} {self.value:.5g}{low_high}"

    def text(self) -> str:
        """Return everything but curves and pictures as text, the headline last."""
        return "\n".join([*(table.text() for table in self.tables), *self.lines, self.headline])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write JSON, and each curve as `NAME-1.svg` and so on beside `NAME.json`; missing folders are created.

        Raises UserError naming the file on failure.
        """
        path = Path(path)
        for number, curve in enumerate(self.curves, start=1):
            with write_output(path.with_name(f"{path.stem}-{number}.svg")) as file:
                file.write(drawing(curve).encode() + b"\n")
        with write_output(path) as file:
            file.write(json.dumps(self.as_dict(), indent=1).encode() + b"\n")


def load_result(path: str | os.PathLike) -> Result:
    """Read a result. Raises UserError if the file is none."""
    try:
        values = read_json(path)
        return Result(
            kind=_text(values["kind"]),
            name=_text(values["name"]),
            value=float(values["value"]),
            about=dict(values["about"]),
            interval=_pair(values["interval"]),
            lines=tuple(map(_text, values["lines"])),
            tables=tuple(
                Table(_text(one["title"]), tuple(map(str, one["columns"])), tuple(map(tuple, one["rows"])))
                for one in values["tables"]
            ),
            curves=tuple(_curve(one) for one in values["curves"]),
            pictures=tuple(Picture(_text(one["title"]), _text(one["file"])) for one in values["pictures"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is not a result of evaluate.py ({type(error).__name__}: {error})") from error


def results_of(folder: str | os.PathLike) -> list[Path]:
    """Return the files of the results saved with a run."""
    return sorted(Path(folder, FOLDER).glob("*.json"))


def _curve(values: dict[str, Any]) -> Curve:
    series = tuple(map(_series, values["series"]))
    names = {name: _text(values[name]) for name in ("title", "x", "y")}
    return Curve(**names, series=series, log_x=values["log_x"] is True, log_y=values["log_y"] is True)


def _series(values: dict[str, Any]) -> Series:
    points, given = _points(values["points"]), values["intervals"]
    if given is not None and len(given) != len(points):
        raise ValueError(f"{len(given)} intervals for {len(points)} points")
    return Series(_text(values["name"]), points, None if given is None else _points(given))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _points(values: Iterable) -> tuple[tuple[float, float], ...]:
    return tuple((float(first), float(second)) for first, second in values)


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
