"""Draws curves as SVG: axes, lines, bands of intervals, and the value of each point when the mouse is on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from elucid.evaluation.axes import Axis, axis, drawable, number
from elucid.evaluation.markup import Markup, element

if TYPE_CHECKING:
    from elucid.evaluation.results import Curve, Series

COLOURS = (
    ("#2b6cb0", "#7cb2ec"),
    ("#c05621", "#f2a266"),
    ("#2f855a", "#76c99a"),
    ("#97266d", "#e38fc0"),
    ("#6b5b95", "#b7a6e6"),
    ("#8a6d00", "#d9bb4c"),
    ("#0e7c86", "#63c7d1"),
    ("#5f6672", "#aab2bf"),
)
"""Colours of series, on a light and on a dark background; the ninth series has the first one again, dashed."""

INK, PAPER = ("#20242b", "#e4e7ec"), ("#ffffff", "#15181d")
"""Colours of text and background."""

MOST_POINTS = 240
"""Longer series are drawn with so many of their points, at equal distances; the last one is always there."""

WIDTH, HEIGHT = 390, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 14, 34, 46
_TITLE, _LEGEND = 26, 20
_FEW = 12  # points that are marked
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


def style(scheme: int | None = None) -> str:
    """Return the style sheet of charts with light (0) or dark (1) colours, or those of the page's scheme."""

    def of(pair: tuple[str, str]) -> str:
        return f"light-dark({', '.join(pair)})" if scheme is None else pair[scheme]

    rules = [f".s{index} {{ color: {of(pair)}; }}" for index, pair in enumerate(COLOURS)]
    return "\n".join([f".chart {{ color: {of(INK)}; }}", f".chart .paper {{ fill: {of(PAPER)}; }}", *rules])


def drawing(curve: Curve) -> str:
    """Return a chart as an SVG file of its own, with title and legend, in the colours of the reader's scheme."""
    css = f".dot:hover {{ opacity: 1; }}\n@media (prefers-color-scheme: dark) {{\n{style(1)}\n}}"
    height = HEIGHT + _TITLE + _LEGEND * len(curve.series) + 6
    legend = [
        element(
            "g",
            _swatch(index, _LEFT, HEIGHT + _TITLE + _LEGEND * index + 6),
            _text(one.name, _LEFT + 28, HEIGHT + _TITLE + _LEGEND * index + 10),
        )
        for index, one in enumerate(curve.series)
    ]
    return element(
        "svg",
        element("style", Markup(css)),
        element("rect", class_="paper", width=WIDTH, height=height, fill=PAPER[0]),
        _text(curve.title, 12, 20, font_weight="600"),
        element("g", *_plot(curve, range(len(curve.series))), transform=f"translate(0 {_TITLE})"),
        *legend,
        xmlns="http://www.w3.org/2000/svg",
        **_root(curve, height),
    )


def chart(curve: Curve, colours: Sequence[int] | None = None) -> Markup:
    """Return a chart as an element of a page that has `style`, without title and legend.

    `colours` are the places of the series in COLOURS, so that a run has the same one in all charts.
    """
    parts = _plot(curve, colours if colours is not None else range(len(curve.series)))
    return element("svg", *parts, tabindex=0, **_root(curve, HEIGHT))


def colour_class(index: int) -> str:
    """Return the class of the colour of a series."""
    return f"s{index % len(COLOURS)}"


def _root(curve: Curve, height: int) -> dict[str, object]:
    ends = (
        f"{one.name}: {number(last[1])} at {number(last[0])}"
        for one in curve.series
        if (last := next((point for point in reversed(one.points) if all(map(drawable, point))), None))
    )
    label = f"{curve.title}: {curve.y} against {curve.x}; last values: {', '.join(ends) or 'none'}"
    box = {"viewBox": f"0 0 {WIDTH} {height}", "width": WIDTH, "height": height}
    return {"class_": "chart", "color": INK[0], "font_family": _FONT, "role": "img", "aria_label": label, **box}


def _plot(curve: Curve, colours: Sequence[int]) -> list[Markup]:
    """Return axes and lines within WIDTH x HEIGHT."""
    points = [point for one in curve.series for point in one.points]
    limits = [limit for one in curve.series for pair in one.intervals or () for limit in pair]
    x = axis((point[0] for point in points), curve.log_x)
    y = axis([*(point[1] for point in points), *limits], curve.log_y, margin=0.06)
    marked = max((len(one.points) for one in curve.series), default=0) <= _FEW
    lines = [_series(one, colour, curve, (x, y), marked) for one, colour in zip(curve.series, colours, strict=True)]
    seen = any(x.shows(one) and y.shows(other) for one, other in points)
    nothing = None if seen else _text("no values", WIDTH / 2, HEIGHT / 2, text_anchor="middle", opacity=0.6)
    return [_axes(curve, x, y), *lines, *([nothing] if nothing else [])]


def _axes(curve: Curve, x: Axis, y: Axis) -> Markup:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value in y.ticks():
        at = _y(y, value)
        parts.append(_line(_LEFT, at, right, at, 0.12))
        parts.append(_text(number(value), _LEFT - 8, at + 4, text_anchor="end"))
    for value in x.ticks():
        at = _x(x, value)
        parts.append(_line(at, bottom, at, bottom + 4, 0.5))
        parts.append(_text(number(value), at, bottom + 18, text_anchor="middle"))
    parts.append(_line(_LEFT, bottom, right, bottom, 0.5))
    parts.append(_text(curve.x, (_LEFT + right) / 2, HEIGHT - 8, text_anchor="middle", opacity=0.75))
    parts.append(_text(curve.y, 12, 16, opacity=0.75))
    return element("g", *parts, class_="axes")


def _series(one: Series, colour: int, curve: Curve, axes: tuple[Axis, Axis], marked: bool) -> Markup:
    """Return the band, the line, broken where values are missing, and the points, `marked` or seen under the mouse."""
    x, y = axes
    lines, dots, band = [], [], []
    for stretch in _stretches(one, x, y):
        places = [(_x(x, one.points[index][0]), _y(y, one.points[index][1])) for index in stretch]
        lines.append(f"M{_joined(places)}")
        for index, (cx, cy) in zip(stretch, places, strict=True):
            at, value = one.points[index]
            between = ""
            if one.intervals is not None and all(map(y.shows, one.intervals[index])):
                low, high = one.intervals[index]
                band.append((cx, _y(y, low), _y(y, high)))
                between = f" ({number(low)} to {number(high)})"
            title = element("title", f"{curve.x}: {number(at, 6)}\n{one.name}: {number(value)}{between}")
            shown = {"r": 3, "fill": "currentColor", "opacity": int(marked or len(stretch) == 1)}
            dots.append(element("circle", title, class_="dot", cx=f"{cx:.1f}", cy=f"{cy:.1f}", **shown))
    outline = [*((at, low) for at, low, _ in band), *((at, high) for at, _, high in reversed(band))]
    return element(
        "g",
        element("path", d=f"M{_joined(outline)} Z", fill="currentColor", opacity=0.16) if band else None,
        element("path", d=" ".join(lines), fill="none", stroke="currentColor", stroke_width=1.8, **_dashes(colour)),
        *dots,
        class_=f"series {colour_class(colour)}",
        color=COLOURS[colour % len(COLOURS)][0],
    )


def _stretches(one: Series, x: Axis, y: Axis) -> list[list[int]]:
    """Return the places of the points that are drawn, in a list for each stretch without missing values."""
    gaps, there = 0, []
    for index, (at, value) in enumerate(one.points):
        if x.shows(at) and y.shows(value):
            there.append((gaps, index))
        else:
            gaps += 1
    kept = [there[place] for place in thinned(len(there))]
    return [[index for _, index in stretch] for _, stretch in groupby(kept, key=lambda pair: pair[0])]


def thinned(count: int) -> list[int]:
    """Return the places of the points that are drawn of so many."""
    if count <= MOST_POINTS:
        return list(range(count))
    return [round(index * (count - 1) / (MOST_POINTS - 1)) for index in range(MOST_POINTS)]


def log_scale(values: Sequence[float]) -> bool:
    """Return whether values are better seen on a logarithmic axis: all above 0, and over more than a decade."""
    shown = [value for value in values if drawable(value)]
    return bool(shown) and min(shown) > 0 and max(shown) > 10 * min(shown)


def swatch(index: int) -> Markup:
    """Return a short line in the colour of a series, for a legend on a page."""
    line = _swatch(index, 1, 5)
    return element("svg", line, class_="swatch", width=24, height=10, viewBox="0 0 24 10", aria_hidden="true")


def _swatch(index: int, x: float, y: float) -> Markup:
    line = element("path", d=f"M{x} {y} h22", stroke="currentColor", stroke_width=2.5, **_dashes(index))
    return element("g", line, class_=colour_class(index), color=COLOURS[index % len(COLOURS)][0])


def _dashes(index: int) -> dict[str, str | None]:
    return {"stroke_linejoin": "round", "stroke_dasharray": None if index < len(COLOURS) else "5 3"}


def _joined(places: Sequence[tuple[float, float]]) -> str:
    return " L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _x(x: Axis, value: float) -> float:
    return _LEFT + x.place(value) * (WIDTH - _LEFT - _RIGHT)


def _y(y: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - y.place(value) * (HEIGHT - _TOP - _BOTTOM)


def _line(x1: float, y1: float, x2: float, y2: float, opacity: float) -> Markup:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return element("line", **ends, stroke="currentColor", stroke_opacity=opacity)


def _text(text: str, x: float, y: float, **attributes) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", font_size=14, fill="currentColor", **attributes)
