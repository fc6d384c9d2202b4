"""Charts: round ticks, positions in proportion, every point with its value, valid XML whatever the names."""

import itertools
import math
import random
from xml.etree import ElementTree

import pytest

from elucid.evaluation.axes import axis, number
from elucid.evaluation.charts import MOST_POINTS, drawing, log_scale, thinned
from elucid.evaluation.results import Curve, Series

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*series: Series, **options) -> ElementTree.Element:
    return ElementTree.fromstring(drawing(Curve("A title", "steps", "error", series, **options)))


def dots(root) -> list[tuple[float, float, str]]:
    circles = root.iter(f"{SVG}circle")
    return [(float(one.get("cx")), float(one.get("cy")), one.find(f"{SVG}title").text) for one in circles]


@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_few_round_numbers_on_the_axis(log):
    draw = random.Random(0)
    for _ in range(300):
        low = 10 ** draw.uniform(-6, 6)
        high = low * 10 ** draw.uniform(0.02, 8)
        shown = axis([low, high], log)
        ticks = shown.ticks()
        assert 2 <= len(ticks) <= 10
        assert all(shown.low * (1 - 1e-6) <= tick <= shown.high * (1 + 1e-6) for tick in ticks)
        if not log:
            steps = [later - tick for tick, later in itertools.pairwise(ticks)]
            assert max(steps) == pytest.approx(min(steps), rel=1e-3)
            assert f"{steps[0]:.6e}".replace(".", "").split("e")[0].rstrip("0") in ("1", "2", "5")


def test_positions_are_in_proportion():
    even = [at for at, _, _ in dots(drawn(Series("a", ((0, 1), (1, 1), (2, 1)))))]
    assert even[1] - even[0] == pytest.approx(even[2] - even[1], abs=0.11)
    points = ((1, 1), (10, 10), (100, 100))
    places = dots(drawn(Series("a", points), log_x=True, log_y=True))
    for coordinate in (0, 1):
        first, second, third = (place[coordinate] for place in places)
        assert second - first == pytest.approx(third - second, abs=0.11)
    assert places[0][1] > places[2][1]  # larger values are further up


def test_each_point_has_its_value():
    root = drawn(Series("a", ((1, 0.25), (2, 0.5)), ((0.2, 0.3), (0.4, 0.6))), Series("b", ((1, 7),)))
    assert [text for *_, text in dots(root)] == [
        "steps: 1\na: 0.25 (0.2 to 0.3)",
        "steps: 2\na: 0.5 (0.4 to 0.6)",
        "steps: 1\nb: 7",
    ]
    assert "a: 0.5 at 2, b: 7 at 1" in root.get("aria-label")


def test_the_band_is_that_of_the_intervals():
    root = drawn(Series("a", ((1, 5), (2, 5)), ((0, 10), (4, 6))))
    band = next(path.get("d") for path in root.iter(f"{SVG}path") if path.get("fill") == "currentColor")
    corners = [tuple(map(float, corner.split())) for corner in band.strip("MZ ").split(" L")]
    height = {at: abs(corners[at][1] - corners[-1 - at][1]) for at in (0, 1)}
    assert len(corners) == 4 and height[0] == pytest.approx(5 * height[1], rel=0.02)


def test_missing_values_break_the_line():
    root = drawn(Series("a", ((1, 1), (2, math.nan), (3, 2), (4, 3), (5, math.inf))))
    line = next(path.get("d") for path in root.iter(f"{SVG}path") if path.get("fill") == "none")
    assert len(dots(root)) == 3 and line.count("M") == 2


def test_points_that_stand_alone_are_seen():
    points = tuple((at, 1.0 if at % 8 == 0 or at > 990 else math.nan) for at in range(1000))
    root = drawn(Series("a", points))
    opacity = [one.get("opacity") for one in root.iter(f"{SVG}circle")]
    assert opacity == ["1"] * 124 + ["0"] * 9  # the last stretch has a line


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show():
    assert len(dots(drawn(Series("a", ((1, 0), (2, -1), (3, 10), (4, 100))), log_y=True))) == 2


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((1, 5),),
        ((1, 0), (2, 0)),
        ((1, 1e99), (2, -1e99)),
        ((1, 10**400),),
        ((1, 1e-320), (2, 2e-320)),
        ((0, 3), (0, 4)),
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_any_values_make_a_chart(points, log):
    places = dots(drawn(Series("a", points), log_x=log, log_y=log))
    assert all(0 <= at <= 400 and 0 <= height <= 300 for at, height, _ in places)


def test_any_names_make_valid_xml():
    nasty = "<script>alert(1)</script> \"'&]]> \x00\x1b \ud800 \uffff"
    root = ElementTree.fromstring(drawing(Curve(nasty, nasty, nasty, (Series(nasty, ((1, 2),)),))).encode())
    assert not list(root.iter("script")) and not list(root.iter(f"{SVG}script"))
    assert "<script>alert(1)</script>" in "".join(root.itertext())


def test_long_series_are_thinned_evenly():
    kept = thinned(10_000)
    assert kept[0] == 0 and kept[-1] == 9_999 and len(set(kept)) == MOST_POINTS
    gaps = [later - earlier for earlier, later in itertools.pairwise(kept)]
    assert max(gaps) - min(gaps) <= 1
    assert thinned(5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("values, expected", [((1, 20), True), ((1, 9), False), ((0, 20), False), ((math.nan,), False)])
def test_when_a_scale_is_logarithmic(values, expected):
    assert log_scale(values) is expected


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (0.0123, "0.0123"), (12000, "12000"), (1.5e-7, "1.5e-7"), (3.07, "3.07"), (1e7, "1e7")]
)
def test_numbers(value, text):
    assert number(value) == text
