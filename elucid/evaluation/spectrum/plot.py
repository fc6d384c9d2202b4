"""Several charts in one SVG file."""

from collections.abc import Sequence

from elucid.evaluation.charts import WIDTH, drawing
from elucid.evaluation.markup import Markup, element
from elucid.evaluation.results import Curve

COLUMNS = 2
_HEIGHT = 350  # of a chart with a title and two lines in its legend
_LEGEND = 20


def plot(curves: Sequence[Curve]) -> Markup:
    """Return charts side by side, `COLUMNS` in a row, as an SVG file."""
    rows = [curves[start : start + COLUMNS] for start in range(0, len(curves), COLUMNS)]
    top, parts = 0, []
    for row in rows:
        for place, curve in enumerate(row):
            parts.append(element("g", drawing(curve), transform=f"translate({place * WIDTH} {top})"))
        top += _HEIGHT + _LEGEND * max(0, max(len(curve.series) for curve in row) - 2)
    width = WIDTH * min(COLUMNS, len(curves))
    return element(
        "svg", *parts, xmlns="http://www.w3.org/2000/svg", width=width, height=top, viewBox=f"0 0 {width} {top}"
    )
