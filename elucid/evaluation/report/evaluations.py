"""The section of saved results of evaluate.py: whatever tables, curves and pictures they hold."""

from collections.abc import Sequence
from pathlib import Path

from elucid.dnnlib.errors import UserError
from elucid.evaluation.charts import swatch
from elucid.evaluation.markup import Markup, element, joined
from elucid.evaluation.report.collect import RunRecord
from elucid.evaluation.report.curves import dot, figure
from elucid.evaluation.report.pictures import FIGURE, inside, read_picture, shown
from elucid.evaluation.report.tables import flat, framed, result_table, text
from elucid.evaluation.results import Curve, Result


def evaluations(runs: Sequence[RunRecord], others: Sequence[tuple[Path, Result]]) -> Markup | None:
    """Return the results saved with each run, and others; None if there are none."""
    several = len(runs) > 1
    titles = [joined([dot(place), run.name]) if several else None for place, run in enumerate(runs)]
    groups = [_group(title, run.results) for title, run in zip(titles, runs, strict=True) if run.results]
    if others:
        groups.append(_group(Markup("Others") if groups else None, others))
    return element("div", *groups) if groups else None


def _group(title: Markup | None, results: Sequence[tuple[Path, Result]]) -> Markup:
    articles = (_result(path, result, "h4" if title else "h3") for path, result in results)
    return element("div", element("h3", title, class_="name") if title else None, *articles, class_="results")


def _result(path: Path, result: Result, heading: str) -> Markup:
    about = [[element("th", name, scope="row"), element("td", text(value))] for name, value in flat(result.about)]
    return element(
        "article",
        element(heading, result.kind, class_="kind"),
        element("p", result.headline, class_="headline"),
        *(element("p", line) for line in result.lines),
        element(
            "div",
            *map(_curve, result.curves),
            *map(result_table, result.tables),
            *(_picture(path.parent, picture.title, picture.file) for picture in result.pictures),
            class_="body",
        ),
        element("details", element("summary", "How it was computed"), framed(str(path), (), about, "texts"))
        if result.about
        else None,
        class_="card",
    )


def _curve(curve: Curve) -> Markup:
    if len(curve.series) < 2:
        return figure(curve)
    names = (element("li", swatch(place), one.name) for place, one in enumerate(curve.series))
    return element("div", figure(curve), element("ul", *names, class_="legend"), class_="with-legend")


def _picture(folder: Path, title: str, file: str) -> Markup:
    try:
        picture = shown(read_picture(inside(folder, file)), title, FIGURE)
    except UserError as error:
        return element("p", f"{title}: {error}", class_="note")
    return element("figure", element("figcaption", title), picture, class_="wide")
