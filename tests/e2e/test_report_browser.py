"""The page of a report in a headless Chromium, opened from its file: what a reader clicks, types, points at and sees.

Skipped where Playwright or a browser is missing: `make browser` installs the first; CHROMIUM names the second.
"""

import os
import shutil

import pytest

from elucid.evaluation.report.collect import read_runs
from elucid.evaluation.report.page import page as written
from tests.run_folders import write_run

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: make browser")
BROWSER = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: install it, or CHROMIUM=PATH")

QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
QUIET += ["--disable-component-update", "--no-sandbox"]  # no sandbox, as it does not start in containers
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page about two runs of which the second has a hostile and long name."""
    folder = tmp_path_factory.mktemp("browser")
    runs = [write_run(folder / "one", losses=range(8, 0, -1)), write_run(folder / "two", losses=(9, 5, 3, 2))]
    name = "two<script>window.hit = 1</script>" + "x" * 120
    (folder / "report.html").write_text(written(read_runs(runs, ["one", name])))
    return (folder / "report.html").as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page; afterwards nothing was asked of the network, and nothing complained."""
    contexts, asked, complaints = [], [], []

    def open_page(size=DESK, scheme="light"):
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
    assert [url for url in asked if not url.startswith("data:")] == [address] * len(contexts)


def background(page) -> int:
    """The brightness of the page, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(colour.split("(")[1].split(",")[0])


def seen(page) -> list[str]:
    """The texts of the grids that are shown."""
    return [one.get_attribute("alt") for one in page.locator(".grids img").all() if one.is_visible()]


def test_the_slider_moves_all_grids(opened):
    page = opened()
    slider, now = page.get_by_role("slider", name="Images seen"), page.locator("#now")
    assert now.inner_text() == "8 thousand images"
    assert [text.split(" after ")[1] for text in seen(page)] == ["8 thousand images", "4 thousand images"]
    slider.focus()
    page.keyboard.press("Home")
    assert now.inner_text() == slider.get_attribute("aria-valuetext") == "2 thousand images"
    assert [text.split(" after ")[1] for text in seen(page)] == ["2 thousand images"] * 2
    page.keyboard.press("ArrowRight")
    assert now.inner_text() == "4 thousand images"
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Play").wait_for()  # it stops at the end
    assert now.inner_text() == "8 thousand images"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(opened, scheme):
    page = opened(scheme=scheme)
    other = {"light": "dark", "dark": "light"}[scheme]
    assert (background(page) > 128) == (scheme == "light")
    page.get_by_role("button", name=f"Use {other} colours").click()
    assert (background(page) > 128) == (other == "light")
    page.get_by_role("button", name=f"Use {scheme} colours").click()
    assert (background(page) > 128) == (scheme == "light")


def test_a_chart_shows_its_values(opened):
    page = opened()
    chart, tip = page.locator("svg.chart").first, page.locator("#tip")
    assert not tip.is_visible()
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    chart.hover(position={"x": 62 / 390 * box["width"], "y": box["height"] / 2})
    lines = tip.inner_text().split("\n")
    assert lines[:2] == ["images seen, thousands: 1", "one: 8"] and lines[2].endswith(": 9")
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    chart.focus()
    page.keyboard.press("ArrowLeft")  # from the right end; the second run ended long before
    assert tip.inner_text().split("\n") == ["images seen, thousands: 8", "one: 1"]
    page.keyboard.press("Escape")
    assert not tip.is_visible()


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_only_tables_scroll_sideways(opened, size):
    page = opened(size)
    for details in page.locator("details").all():
        details.locator("summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll, svg') &&"
        " one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"
    )
    assert wide == []
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('.chart text')].map((one) => one.getBoundingClientRect().height))"
    )
    assert smallest > 11  # pixels of a line of text


def test_everything_can_be_reached_by_the_keyboard(opened):
    page = opened()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className.baseVal || "
                                  "document.activeElement.className || document.activeElement.tagName"))  # fmt: skip
    assert {"theme", "play", "time", "chart", "scroll", "SUMMARY", "A"} <= reached


def test_printing_unfolds_and_leaves_out_buttons(opened):
    page = opened()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.get_by_role("button").first.is_visible() and len(seen(page)) == 2


def test_no_script_but_its_own_runs(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hit = 2'}))")
    assert page.evaluate("window.hit") is None
    page.close()
