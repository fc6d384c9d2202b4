"""Puts the sections of a report into one HTML file that needs nothing else."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path

from elucid.evaluation.charts import style
from elucid.evaluation.markup import Markup, element, joined
from elucid.evaluation.report.collect import RunRecord
from elucid.evaluation.report.curves import curves
from elucid.evaluation.report.evaluations import evaluations
from elucid.evaluation.report.samples import ClassSamples, classes, grids
from elucid.evaluation.report.settings import environment, settings
from elucid.evaluation.report.summary import summary
from elucid.evaluation.results import Result
from elucid.version import __version__


def page(
    runs: Sequence[RunRecord],
    samples: Sequence[ClassSamples] = (),
    results: Sequence[tuple[Path, Result]] = (),
    most_grids: int = 24,
) -> str:
    """Return the report on runs as HTML: no other file or address is needed, and no script but its own can run."""
    sections = [
        ("summary", "Summary", summary(runs)),
        ("curves", "Curves", curves(runs)),
        ("samples", "Samples over time", grids(runs, most_grids)),
        ("classes", "Real and synthetic", classes(samples)),
        ("evaluations", "Evaluations", evaluations(runs, results)),
        ("settings", "Settings", settings(runs)),
        ("environment", "Environment", environment(runs)),
        ("notes", "Notes", _notes(runs)),
    ]
    there = [(name, title, content) for name, title, content in sections if content is not None]
    title = ", ".join(run.name for run in runs)
    links = (element("a", text, href=f"#{name}") for name, text, _ in there)
    body = element(
        "body",
        element("a", "Skip to the report", href="#main", class_="skip"),
        element(
            "header",
            element("p", "Training report", class_="kicker"),
            element("h1", " and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs"),
            element("button", "Dark", type="button", id="theme", aria_pressed="false"),
            element("nav", *links, aria_label="Sections"),
        ),
        element("main", *(_section(*one) for one in there), id="main"),
        element("footer", _footer()),
        element("div", id="tip", role="status", hidden=True),
        element("script", Markup(_file("page.js"))),
    )
    css = f"{style()}\n{_file('page.css')}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy(css, _file("page.js"))),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"Training report: {title}"),
        element("style", Markup(css)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def policy(css: str, script: str) -> str:
    """Return the Content-Security-Policy of the page: its own style and script by their hashes, pictures inside it."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script))
    style_hash, script_hash = (f"'sha256-{one}'" for one in hashes)
    sources = {"img-src": "data:", "style-src": style_hash, "script-src": script_hash}
    fixed = {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
    return "; ".join(f"{name} {source}" for name, source in {**fixed, **sources}.items())


def _section(name: str, title: str, content: Markup) -> Markup:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, content, id=name, aria_labelledby=f"{name}-title")


def _notes(runs: Sequence[RunRecord]) -> Markup | None:
    notes = [f"{run.name}: {note}" if len(runs) > 1 else note for run in runs for note in run.notes]
    return element("ul", *(element("li", note) for note in notes)) if notes else None


def _footer() -> Markup:
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    text = "Pictures are reduced, and stored as JPEG where PNG would be large; the files in the run folders are exact."
    return joined([element("p", f"Made by Elucid {__version__} on {made}."), element("p", text)])


def _file(name: str) -> str:
    return resources.files("elucid.evaluation.report").joinpath(name).read_text(encoding="utf-8")
