"""Converts any source of images to a dataset for training."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import ImageColor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.preparation.images import GRAY, RGB
from elucid.preparation.pool import Conversion, make_all
from elucid.preparation.sources import Source, open_source
from elucid.preparation.transforms import Size, result_size
from elucid.preparation.writer import archive_name, open_destination, require_elsewhere
from elucid.training.data.labels import Labels


@dataclass(repr=False)
class ConversionReport:
    """Result of a conversion."""

    source: str
    destination: str
    size: Size = (0, 0)
    channels: int = 0
    written: list[int] = field(default_factory=list)  # positions in the source
    skipped: list[str] = field(default_factory=list)  # too small for the transform
    unlabelled: list[str] = field(default_factory=list)
    labels: Labels | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report, notes and warnings last."""
        kind = {GRAY: "gray", RGB: "RGB"}[self.channels]
        yield f"{len(self.written)} images of {self.size[0]}x{self.size[1]}, {kind}, from {self.source}"
        if self.labels is None:
            yield "no labels"
        elif self.labels.are_classes:
            yield f"{self.labels.dim} classes" + _list(self.labels.class_names or [])
        else:
            yield f"label vectors of width {self.labels.dim}"
        if empty := self.empty_classes():
            yield f"warning: {len(empty)} classes have no images here{_list(empty)}"
        if self.skipped:
            yield f"skipped as too small for the transform: {len(self.skipped)} images" + _list(self.skipped)
        if self.unlabelled:
            yield (
                f"warning: {len(self.unlabelled)} images have no label{_list(self.unlabelled)}; training with --cond=1 "
                f"will reject them: `unlabelled`=drop leaves them out"
            )
        yield from (f"note: {note}" for note in self.notes)
        yield f"written: {self.destination}"

    def empty_classes(self) -> list[str]:
        """Names or numbers of the classes without images, for example because of --max-images."""
        if self.labels is None or not self.labels.are_classes:
            return []
        present = set(self.labels.values[self.written].tolist())
        names = self.labels.class_names or [str(number) for number in range(self.labels.dim)]
        return [name for number, name in enumerate(names) if number not in present]


def convert(
    source: str,
    destination: str | os.PathLike,
    *,
    max_images: int | None = None,
    transform: str | None = None,
    resolution: Size | None = None,
    channels: str = "auto",
    background: str = "white",
    unlabelled: str = "keep",
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> ConversionReport:
    """Convert the images of `source` to a dataset; `destination` is a .zip or a new folder.

    `resolution` is (width, height). `channels` is auto (gray if all images are), gray or rgb; `unlabelled` is keep or
    drop. Raises UserError naming the image, file or option, without leaving an incomplete destination.
    """
    _require_sides(result_size(transform, resolution), "`resolution`")
    require_elsewhere(source, destination)
    ground = _colour(background)
    opened = open_source(source)
    chosen = _choose(opened, max_images, unlabelled)
    count = {"gray": GRAY, "rgb": RGB}.get(channels) or _common_channels(opened, chosen, progress)
    conversion = Conversion(opened, count, ground, transform, resolution)
    report = ConversionReport(source, str(destination), channels=count, labels=opened.labels, notes=opened.notes)
    with open_destination(destination, overwrite) as write:
        for index, data in _checked(conversion, chosen, report, workers, progress):
            write(archive_name(index), data)
        if not report.written:
            raise UserError(f"all images of {source} are too small for `transform`={transform}; lower `resolution`")
        write("dataset.json", _dataset_json(report, chosen))
    return report


def _checked(
    conversion: Conversion, chosen: Sequence[int], report: ConversionReport, workers: int | None, progress: bool
) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield numbered PNGs, checking that all have the same size; results are added to `report`."""
    made = make_all(conversion, chosen, workers)
    bar = progress_bar(made, total=len(chosen), desc="preparing", disable=not progress, delay=0.5)
    for number, (index, result) in enumerate(bar):
        name = conversion.source.picture_name(index)
        if result is None:
            report.skipped.append(name)
            continue
        size, data = result
        if not report.written:
            report.size, first = size, name
            _require_sides(size, name)
        if size != report.size:
            width, height = report.size
            raise UserError(
                f"the images differ in size: {first} is {width}x{height}, {name} is {size[0]}x{size[1]}; "
                f"give `resolution`=WxH, and perhaps `transform`=center-crop"
            )
        report.written.append(index)
        yield number, data


def _choose(source: Source, max_images: int | None, unlabelled: str) -> list[int]:
    if max_images is not None and max_images < 1:
        raise UserError(f"`max_images`={max_images} leaves no images; it must be at least 1")
    chosen = np.arange(len(source))
    if unlabelled == "drop":
        if source.labels is None:
            raise UserError(f"`unlabelled`=drop leaves no images: {source.name} has no labels")
        chosen = np.setdiff1d(chosen, source.labels.missing)
    return chosen[:max_images].tolist()


def _common_channels(source: Source, chosen: Sequence[int], progress: bool) -> int:
    """Return 1 if all images are gray, else 3; the search ends at the first image in colour."""
    bar = progress_bar(chosen, desc="looking for colour", disable=not progress, delay=1, leave=False)
    return GRAY if all(source.is_gray(index) for index in bar) else RGB


def _require_sides(size: Size | None, what: str) -> None:
    if size is not None and (size[0] % 8 or size[1] % 8):
        near = "x".join(str(max(8, round(side / 8) * 8)) for side in size)
        raise UserError(
            f"{what} is {size[0]}x{size[1]}, but networks need sides divisible by 8; give `resolution`={near}"
        )


def _colour(name: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise UserError(f"`background`={name} is not a colour; use white, black or #rrggbb") from error


def _dataset_json(report: ConversionReport, chosen: Sequence[int]) -> bytes:
    """Create dataset.json for the written images; those without a label are omitted and named in the report."""
    if report.labels is None:
        return json.dumps({"labels": None}).encode()
    number = {index: n for n, index in enumerate(chosen)}
    missing = set(report.labels.missing.tolist())
    pairs = []
    for index in report.written:
        name = archive_name(number[index])
        if index in missing:
            report.unlabelled.append(name)
        else:
            pairs.append([name, report.labels.values[index].tolist()])
    content: dict[str, object] = {"labels": pairs or None}
    if report.labels.class_names:
        content["class_names"] = report.labels.class_names
    return json.dumps(content).encode()


def _list(names: Sequence[str]) -> str:
    """Return ` (a, b, c, ...)`, or an empty string."""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
