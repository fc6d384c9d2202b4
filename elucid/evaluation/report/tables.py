"""Tables of the page: results as they are saved, and nested options as rows."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from elucid.evaluation.axes import drawable, number
from elucid.evaluation.markup import Markup, element
from elucid.evaluation.results import Table

LONGEST = 600
"""Longer values are cut."""


def result_table(table: Table) -> Markup:
    """Return a table of a result; a confusion matrix with cells shaded by their share of the row."""
    shaded = _is_confusion(table)
    right = [_numbers(table, place) for place in range(len(table.columns))]
    rows = [
        [
            cell(value, place < len(right) and right[place], _shade(value, row[1:]) if shaded and place else 0)
            for place, value in enumerate(row)
        ]
        for row in table.rows
    ]
    heads = [
        element("th", head, scope="col", class_="number" if numbers else None)
        for head, numbers in zip(table.columns, right, strict=True)
    ]
    return framed(table.title, heads, rows, class_="confusion" if shaded else None)


def framed(title: str, heads: Iterable[Markup], rows: Iterable[Iterable[Markup]], class_: str | None = None) -> Markup:
    """Return a table that scrolls within itself, also by the keyboard."""
    table = element(
        "table",
        element("thead", element("tr", *heads)),
        element("tbody", *(element("tr", *row) for row in rows)),
        class_=class_,
    )
    scroller = element("div", table, class_="scroll", tabindex=0, role="region", aria_label=title)
    return element("div", element("p", title, class_="title"), scroller, class_="table")


def side_by_side(title: str, names: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> Markup:
    """Return a table with a row for each (name, values) and a column for each of `names`."""
    heads = [element("td"), *(element("th", name, scope="col", class_="name") for name in names)]
    body = ([element("th", name, scope="row"), *(element("td", text(one)) for one in values)] for name, values in rows)
    return framed(title, heads, body, class_="texts")


def cell(value: Any, right: bool = False, shade: int = 0) -> Markup:
    """Return a cell of a column that may be aligned to the right; floating-point numbers are rounded."""
    shown = number(value, 5) if isinstance(value, float) else text(value)
    classes = [*(["number"] if right else []), *([f"h{shade}"] if shade else [])]
    return element("td", shown, class_=" ".join(classes) or None)


def text(value: Any) -> str:
    """Return a value as text: numbers exactly, nested values as JSON, long ones cut."""
    if value is None:
        return "\u2013"
    if isinstance(value, float):
        return repr(value)
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return written if len(written) <= LONGEST else f"{written[:LONGEST]} \u2026"


def flat(values: Any, path: str = "", depth: int = 8) -> Iterator[tuple[str, Any]]:
    """Yield nested dictionaries as (path, value), e.g. (`loss.noise.P_mean`, -1.2)."""
    if not isinstance(values, dict) or not values or not depth:
        yield path, values
        return
    for key, value in values.items():
        yield from flat(value, f"{path}.{key}" if path else str(key), depth - 1)


def _numbers(table: Table, place: int) -> bool:
    """Return whether a column holds numbers only."""
    return all(isinstance(row[place], int | float) for row in table.rows if place < len(row) and row[place] is not None)


def _is_confusion(table: Table) -> bool:
    """Return whether rows and columns have the same names, and all the rest are numbers that can be shaded."""
    values = [value for row in table.rows for value in row[1:]]
    return (
        {len(row) for row in table.rows} == {len(table.columns)}
        and [str(row[0]) for row in table.rows] == list(table.columns[1:])
        and all(isinstance(value, int | float) and drawable(value) for value in values)
    )


def _shade(value: Any, row: Sequence[Any]) -> int:
    """Return the shade of a cell, 0 to 8."""
    total = sum(one for one in row if one > 0)
    return min(8, math.ceil(8 * value / total)) if total and value > 0 else 0
