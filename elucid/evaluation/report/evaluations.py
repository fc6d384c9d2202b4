"""The section of saved results of evaluate.py: whatever tables, curves and pictures they hold."""

from collections.abc import Sequence
from pathlib import Path

from elucid.dnnlib.errors import UserError
from elucid.evaluation.charts import swatch
from elucid.evaluation.markup import Markup, element
from elucid.evaluation.report.collect import RunRecord
from elucid.evaluation.report.curves import dot, figure
from elucid.evaluation.report.pictures import FIGURE, inside, read_picture, shown
from elucid.evaluation.report.tables import flat, framed, result_table, text
from elucid.evaluation.results import Curve, Result


def evaluations(runs: Sequence[RunRecord], others: Sequence[tuple[Path, Result]]) -> Markup | None:
    """Return the results saved with each run, and others; None if there are none."""
    groups = [
        element(
            "div",
            element("h3", dot(place), element("span", run.name, class_="name")) if len(runs) > 1 else None,
            *(_result(path, result, "h4" if len(runs) > 1 else "h3") for path, result in run.results),
        )
        for place, run in enumerate(runs)
        if run.results
    ]
    if others:
        title = element("h3", "Others") if groups else None
        groups.append(element("div", title, *(_result(path, result, "h4" if title else "h3") for path, result in others)))
    return element("div", *groups) if groups else None


def _result(path: Path, result: Result, heading: str) -> Markup:
    about = [[element("th", name, scope="row"), element("td", text(value))] for name, value in flat(result.about)]
    return element(
        "article",
        element(heading, result.kind, class_="kind"),
        element("p", result.headline, class_="headline"),
        *(element("p", line) for line in result.lines),
        element("div", *(_curve(curve) for curve in result.curves), class_="charts") if result.curves else None,
        element("div", *map(result_table, result.tables), class_="tables") if result.tables else None,
        *(_picture(path.parent, picture.title, picture.file) for picture in result.pictures),
        element("details", element("summary", "How it was computed"), framed(str(path), (), about)) if about else None,
        class_="card",
    )


def _curve(curve: Curve) -> Markup:
    if len(curve.series) < 2:
        return figure(curve)
    names = (element("li", swatch(place), one.name) for place, one in enumerate(curve.series))
    return element("div", figure(curve), element("ul", *names, class_="legend"))


def _picture(folder: Path, title: str, file: str) -> Markup:
    try:
        picture = shown(read_picture(inside(folder, file)), title, FIGURE)
    except UserError as error:
        return element("p", f"{title}: {error}", class_="note")
    return element("figure", element("figcaption", title), picture, class_="wide")
