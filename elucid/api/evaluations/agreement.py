"""Class agreement: the share of samples that a support vector classifier of real pixels assigns to their class."""

import os
from typing import Any

import numpy as np

from elucid.api.evaluations.labelled import Labelled, read_labelled, require_fitting
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.dnnlib.progress import progress_bar
from elucid.evaluation import svc as judges
from elucid.evaluation.results import Result, Table
from elucid.evaluation.svc import DEFAULT_C, DEFAULT_GAMMA, PixelClassifier
from elucid.metrics.wilson import interval

MOST_CLASSES_SHOWN = 30  # of a confusion matrix; of more classes the commonest confusions are listed


def svc(
    data: str | os.PathLike,
    images: str | os.PathLike,
    test: str | os.PathLike | None = None,
    *,
    C: float = DEFAULT_C,
    gamma: float | str = DEFAULT_GAMMA,
    grid: bool = False,
    dest: str | os.PathLike | None = None,
) -> Result:
    """Return the percentage of samples that an RBF support vector classifier of pixels assigns to their class.

    It is trained on at most 5000 real images of `data`, which suits digits but not photographs, and tried on those of
    `test`. All are folders or zips with labels: `images` from `generate` with `labels`. `C` and `gamma`, for pixels in
    [0, 1], are the classifier's; `grid` chooses them by cross-validation on `data`. The interval is Wilson's (1927).
    Raises UserError for images without a class, of another size, or of a class that `data` lacks.
    """
    data, images, test = os.fspath(data), os.fspath(images), None if test is None else os.fspath(test)
    if dest is not None:
        require_writable(dest)
    if grid and (C, gamma) != (DEFAULT_C, DEFAULT_GAMMA):
        raise UserError("`grid` chooses C and gamma; leave them out, or `grid`")
    real = read_labelled(data)
    judged = {what: read_labelled(path) for what, path in (("test", test), ("images", images)) if path is not None}
    require_fitting(real, list(judged.values()))
    for one in judged.values():
        _require_known_classes(real, one)
    tables = []
    if grid:
        C, gamma, tried = _best(real)
        tables.append(
            Table(f"{judges.FOLDS}-fold cross-validation on {data}", ("C", "gamma", "accuracy"), tuple(tried))
        )
    judge = PixelClassifier(real.images, real.labels, C, gamma)
    predicted = {what: judge.predict(one.images) for what, one in judged.items()}
    tables.append(_class_table(real, judged, predicted))
    matrix = judges.confusion(judged["images"].labels, predicted["images"], real.num_classes)
    tables.append(_confusion_table(real, matrix))
    lines = [f"classifier trained on {judge.num_train} images of {data}: C {C:g}, gamma {gamma}"]
    about: dict[str, Any] = {"data": data, "train_images": judge.num_train, "C": C, "gamma": gamma, "grid": grid}
    for what, one in judged.items():
        share = float(np.mean(predicted[what] == one.labels))
        limits = interval(share, len(one.labels))
        low, high = (100 * limit for limit in limits)
        lines.append(
            f"{100 * share:.2f} % of {len(one.labels)} images of {one.path} (95 % interval {low:.1f} to {high:.1f})"
        )
        about |= {what: one.path, f"{what}_images": len(one.labels), f"{what}_share": 100 * share}
    # The last judged are the samples.
    result = Result("svc", "svc_agreement", 100 * share, (low, high), tuple(lines), tuple(tables), about=about)
    if dest is not None:
        result.save(dest)
    return result


def class_agreement(
    data: str | os.PathLike, images: str | os.PathLike, test: str | os.PathLike | None = None
) -> dict[str, Any]:
    """Return the percentage of samples that a support vector classifier of pixels assigns to their class, as `value`.

    It is trained on at most 5000 real images of `data`, which suits digits but not photographs, and tried on those of
    `test`. All are folders or zips with labels: `images` from `generate` with `labels`. Raises UserError for an image
    without one. `svc` has more details.
    """
    data, images, test = os.fspath(data), os.fspath(images), None if test is None else os.fspath(test)
    real = read_labelled(data)
    judged = {path: read_labelled(path) for path in (test, images) if path is not None}
    judge = PixelClassifier(real.images, real.labels)
    print(f"classifier trained on {judge.num_train} images of {data}")
    result: dict[str, Any] = {"name": "svc_agreement", "data": data, "train_images": judge.num_train}
    if test is not None:
        result |= {"test": _judge_by(judge, judged[test]), "test_images": len(judged[test].images)}
    return result | {"value": _judge_by(judge, judged[images]), "num_images": len(judged[images].images)}


def _judge_by(judge: PixelClassifier, data: Labelled) -> float:
    """Print and return the percentage of images that the classifier assigns to their class."""
    share, count = judge.agreement(data.images, data.labels), len(data.images)
    low, high = interval(share, count)
    print(f"{100 * share:.2f} % of {count} images of {data.path} (95 % interval {100 * low:.1f} to {100 * high:.1f})")
    return 100 * share


def _best(real: Labelled) -> tuple[float, float | str, list[tuple[float, float | str, float]]]:
    total = len(judges.GRID_C) * len(judges.GRID_GAMMA)
    with progress_bar(total=total, desc="settings", unit="setting", delay=2, leave=False) as bar:
        return judges.best_setting(real.images, real.labels, bar.update)


def _require_known_classes(real: Labelled, judged: Labelled) -> None:
    unknown = sorted(set(judged.labels.tolist()) - set(real.labels.tolist()))
    if unknown:
        raise UserError(
            f"{judged.path} has images of class {judged.name(unknown[0])}, but {real.path} has none; add some"
        )


def _class_table(real: Labelled, judged: dict[str, Labelled], predicted: dict[str, np.ndarray]) -> Table:
    """Return number and share of each class; of the images with the share's interval."""
    rows = []
    for index in range(real.num_classes):
        row: list[Any] = [real.name(index)]
        for what, one in judged.items():
            mask = one.labels == index
            count = int(mask.sum())
            share = float(np.mean(predicted[what][mask] == index)) if count else None
            row += [count, None if share is None else 100 * share]
            if what == "images":
                row += [None, None] if share is None else [100 * limit for limit in interval(share, count)]
        rows.append(tuple(row))
    of_each = {"test": ("test images", "test %"), "images": ("images", "images %", "95 % low", "95 % high")}
    columns = ("class", *(name for what in judged for name in of_each[what]))
    return Table("share of each class", columns, tuple(rows))


def _confusion_table(real: Labelled, matrix: np.ndarray) -> Table:
    if real.num_classes > MOST_CLASSES_SHOWN:
        found = judges.commonest_confusions(matrix)
        named = tuple((real.name(own), real.name(other), count) for own, other, count in found)
        return Table("commonest confusions of the images", ("asked for", "taken for", "images"), named)
    names = [real.name(index) for index in range(real.num_classes)]
    rows = tuple((name, *map(int, row)) for name, row in zip(names, matrix, strict=True))
    return Table("classes asked for (rows) and recognised (columns)", ("", *names), rows)
