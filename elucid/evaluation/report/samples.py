"""The sections of pictures: sample grids over time, and real images beside samples of each class."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.evaluation.axes import number
from elucid.evaluation.markup import Markup, element
from elucid.evaluation.report.collect import RunRecord
from elucid.evaluation.report.curves import dot
from elucid.evaluation.report.pictures import GRID, inside, read_picture, sample, shown
from elucid.evaluation.report.tables import framed


@dataclass
class Column:
    """Images u8[C,H,W] of one origin by class number; `run` is the place of the run that made them, None for real."""

    title: str
    images: dict[int, list[np.ndarray]]
    run: int | None = None


@dataclass
class ClassSamples:
    """Real images and samples of the same classes; without classes all have the number 0."""

    data: str
    class_names: list[str] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def name(self, number: int) -> str:
        """Return the name of a class."""
        return self.class_names[number] if number < len(self.class_names) else f"class {number}"


def grids(runs: Sequence[RunRecord], most: int) -> Markup | None:
    """Return the sample grids of all runs over time, at most `most` of each, with one slider; None if there are none.

    At each position a run shows its newest grid so far. Grids that cannot be read are left out, with a note of the run.
    """
    chosen = [spread(run.grids, most) for run in runs]
    with progress_bar(total=sum(map(len, chosen)), desc="sample grids", delay=2, leave=False) as bar:
        pictures = [_readable(run, of_run, bar) for run, of_run in zip(runs, chosen, strict=True)]
    times = sorted({kimg for of_run in pictures for kimg, _ in of_run})
    if not times:
        return None
    figures = [
        element(
            "figure",
            element("figcaption", dot(place), element("span", run.name, class_="name")) if len(runs) > 1 else None,
            *(element("div", image, data_kimg=number(kimg, 6), hidden=kimg != of_run[-1][0]) for kimg, image in of_run),
        )
        for place, (run, of_run) in enumerate(zip(runs, pictures, strict=True))
        if of_run
    ]
    last = len(times) - 1
    places = " ".join(number(kimg, 6) for kimg in times)
    slider = element(
        "input", type="range", id="time", min=0, max=last, value=last, step=1, data_kimg=places, autocomplete="off"
    )
    controls = element(
        "div",
        element("button", "Play", type="button", id="play"),
        element("label", "Images seen", for_="time"),
        slider,
        element("output", f"{number(times[-1], 6)} thousand images", for_="time", id="now"),
        class_="controls",
        hidden=not last,
    )
    return element("div", controls, element("div", *figures, class_="grids"))


def spread(items: Sequence, most: int) -> list:
    """Return at most so many items at equal distances, with the first and the last one."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / max(most - 1, 1))] for place in range(most - 1)] + [items[-1]]


def classes(groups: Sequence[ClassSamples]) -> Markup | None:
    """Return a table of real images and samples for each data set; None if there are no images."""
    tables = [_classes(group) for group in groups if any(column.images for column in group.columns)]
    notes = [element("p", note, class_="note") for group in groups for note in group.notes]
    return element("div", *tables, *notes) if tables or notes else None


def _classes(group: ClassSamples) -> Markup:
    numbers = sorted({number for column in group.columns for number in column.images})
    heads = [
        element("td"),
        *(
            element("th", None if column.run is None else dot(column.run), column.title, scope="col", class_="name")
            for column in group.columns
        ),
    ]
    rows = (
        [
            element("th", group.name(number) if group.class_names or len(numbers) > 1 else "all", scope="row"),
            *(_cell(column, number, group.name(number)) for column in group.columns),
        ]
        for number in numbers
    )
    return framed(f"Real images of {group.data}, and samples", heads, rows, class_="samples")


def _cell(column: Column, number: int, name: str) -> Markup:
    images = column.images.get(number, [])
    return element("td", element("div", *(sample(one, f"{column.title}: {name}") for one in images), class_="strip"))


def _readable(run: RunRecord, chosen: Sequence, bar) -> list[tuple[float, Markup]]:
    found = []
    for kimg, path in chosen:
        text = f"samples of {run.name} after {number(kimg, 6)} thousand images"
        try:
            found.append((kimg, shown(read_picture(inside(run.folder, path.name)), text, GRID)))
        except UserError as error:
            run.notes.append(f"{path.name} is left out: {error}")
        bar.update()
    return found
