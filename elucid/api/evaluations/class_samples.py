"""A few real images of each class of the runs' data, and samples of the same classes."""

import os
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.evaluation.report.collect import RunRecord
from elucid.evaluation.report.samples import ClassSamples, Column
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.pipeline import load_pipeline

MOST_CLASSES = 20
"""Of more classes the first ones are shown."""

WITHOUT_CLASSES = 4
"""Images without classes are shown as a row of so many times `per_class`."""

Images = dict[int, list[np.ndarray]]


def class_samples(
    runs: Sequence[RunRecord],
    samples: Sequence[ImageDataset],
    per_class: int,
    drawn: SampleOptions | None,
    batch: int,
    device: torch.device,
) -> list[ClassSamples]:
    """Return real images beside samples for each data set of the runs, at most `per_class` of each class.

    `samples` are those of each run in their order, or none; then they are drawn from the newest snapshots with the
    options `drawn`, unless these are None. What cannot be read or drawn is noted.
    """
    groups: dict[str, ClassSamples] = {}
    for place, run in enumerate(runs):
        path = str(run.data) if run.data is not None else "unknown data"
        group = groups.get(path)
        if group is None:
            group = groups[path] = ClassSamples(path)
            _add_real(group, run, per_class)
        try:
            if samples:
                images = _chosen(samples[place], per_class, labels=run.option("dataset.use_labels") is not False)
            elif drawn is not None:
                names, images = _drawn(run, drawn, per_class, batch, device)
                group.class_names = group.class_names or names
            else:
                continue
            group.columns.append(Column(run.name, images, run=place))
        except UserError as error:
            group.notes.append(f"There are no samples of {run.name}: {error}")
    return list(groups.values())


def open_samples(folder: str | os.PathLike) -> ImageDataset:
    """Open a folder of samples. Raises UserError if it holds none, or images of several sizes."""
    return open_dataset(folder)


def _add_real(group: ClassSamples, run: RunRecord, per_class: int) -> None:
    try:
        if run.data is None:
            raise UserError("the run's options do not name its data")
        if run.option("dataset.reader"):
            raise UserError("they are read by the run's own reader")
        dataset = open_dataset(run.data, check=False)
        with_labels = run.option("dataset.use_labels") is True
        group.columns.append(Column("Real", _chosen(dataset, per_class, with_labels)))
    except UserError as error:
        group.notes.append(f"The real images are not shown: {error}")
        return
    if with_labels:
        group.class_names = list(dataset.class_names or [])
        if dataset.labels is not None and dataset.labels.are_classes and dataset.labels.dim > MOST_CLASSES:
            group.notes.append(f"The first {MOST_CLASSES} of {dataset.labels.dim} classes are shown.")


def _chosen(dataset: ImageDataset, per_class: int, labels: bool) -> Images:
    """Return images of each class, drawn at random, the same ones each time."""
    random = np.random.default_rng(0)
    if not labels or dataset.labels is None or not dataset.labels.are_classes:
        places = {0: np.arange(len(dataset))}
        per_class *= WITHOUT_CLASSES
    else:
        values = dataset.labels.values
        places = {number: np.flatnonzero(values == number) for number in range(min(dataset.labels.dim, MOST_CLASSES))}
    taken = {number: sorted(random.permutation(of)[:per_class].tolist()) for number, of in places.items() if len(of)}
    return {number: [dataset.image(index) for index in of] for number, of in taken.items()}


def _drawn(
    run: RunRecord, options: SampleOptions, per_class: int, batch: int, device: torch.device
) -> tuple[list[str], Images]:
    """Return class names and samples from the newest snapshot of a run, in the order of their seeds from 0 on."""
    pipeline = load_pipeline(str(run.folder), options, device, "a report's samples")
    dim = pipeline.label_dim
    classes = [number for number in range(min(dim, MOST_CLASSES)) for _ in range(per_class)] or None
    seeds = list(range(len(classes) if classes else per_class * WITHOUT_CLASSES))
    images: Images = {}
    with (
        progress_bar(total=len(seeds), desc=f"samples of {run.name}", leave=False) as bar,
        closing(pipeline.generate(seeds, batch, classes)) as parts,
    ):
        for part in parts:
            for seed, image in zip(part.seeds, part.images.cpu().numpy(), strict=True):
                images.setdefault(classes[seed] if classes else 0, []).append(image)
            bar.update(len(part.seeds))
    return list(pipeline.class_names or []), images
