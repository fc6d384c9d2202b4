"""Classification accuracy score: classifiers trained on synthetic, on real, and on both, tested on real images."""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from elucid.api.evaluations.labelled import (
    Labelled,
    read_labelled,
    require_all_classes,
    require_fitting,
    shape_text,
    warn_of_shared,
)
from elucid.api.generate import generate
from elucid.api.sources import spans
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.evaluation.cas import tables
from elucid.evaluation.cas.cells import Cells
from elucid.evaluation.cas.names import NETS, SETS
from elucid.evaluation.cas.parallel import Cell, OnStep, in_parallel
from elucid.evaluation.cas.scores import Scores, score
from elucid.evaluation.cas.training import Recipe, classify, train_classifier
from elucid.evaluation.results import Result
from elucid.torch_utils import distributed
from elucid.torch_utils.precision import set_precision
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.output.folder import digest
from elucid.training.sampling.pipeline import load_pipeline

EPOCHS = {"resnet50": 90, "resnet18": 90, "small": 30}
"""Passes over the real images by default; 90 are those of Ravuri & Vinyals 2019 on ImageNet."""

SKEWED = 3
"""Ratio of the class sizes of a test set above which accuracy says little about rare classes."""

Data = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Images u8[N,C,H,W] and class numbers i64[N] of each set to train on."""


def cas(
    real: str | os.PathLike,
    test: str | os.PathLike,
    images: str | os.PathLike | None = None,
    *,
    network: str | os.PathLike | None = None,
    options: SampleOptions | None = None,
    sample_seeds: Sequence[int] | None = None,
    sample_batch: int = 64,
    num: int | None = None,
    seed: int = 0,
    sets: Sequence[str] = SETS,
    net: str = "resnet50",
    seeds: int = 3,
    epochs: int | None = None,
    batch: int = 128,
    lr: float = 0.1,
    xflip: bool = False,
    dest: str | os.PathLike | None = None,
    work: str | os.PathLike | None = None,
    device: str | None = None,
) -> Result:
    """Compute the classification accuracy score (Ravuri & Vinyals 2019, arXiv 1905.10887), as `evaluate.py cas` does.

    A classifier is trained on the synthetic images only, one on the real ones only and one on both, each with the same
    number of steps and `seeds` times; all are tested on `test`. `value` is the top-1 accuracy, in percent, after
    training on synthetic images, or on the first of `sets` if these are left out.

    `real`, `test`, `images` are folders or zips with classes; instead of `images`, `network` samples them with
    `options` and `sample_seeds`, by default 0, 1, ... with classes as frequent as in the data. As many synthetic images
    are used as real ones: all, or `num` chosen by `seed`. The steps are `epochs` passes over the real images in batches
    of `batch`. Finished trainings and samples are kept in `work`, by default `dest` with .work, and taken from there
    by the next call. Under torchrun, which all processes must call, the trainings are shared; the scores are the same
    for any number of processes and CPU threads. Raises UserError for images that do not fit and for absent classes.
    """
    if (images is None) == (network is None):
        raise UserError("give either `images`, a folder or zip with labels, or `network` to sample them")
    if net not in NETS:
        raise UserError(f"`net`={net} is unknown; known: {', '.join(NETS)}")
    if not sets or not set(sets) <= set(SETS) or seeds < 1:
        raise UserError(f"`sets` must be some of {', '.join(SETS)}, and `seeds` at least 1")
    place = distributed.choose_device(device)
    distributed.init(place)
    if dest is not None and distributed.is_main():
        require_writable(dest)
    with work_folder(work, dest) as folder:
        first, held_out = read_labelled(os.fspath(real), num, seed), read_labelled(os.fspath(test))
        require_usable(first, first)
        require_usable(first, held_out)
        warn_of_shared(first, held_out)
        made: dict[str, Any] = {}
        if network is not None:
            how = options or SampleOptions()
            images, made = sample(os.fspath(network), first, sample_seeds, how, sample_batch, place, folder)
        synthetic = read_labelled(str(images), len(first.labels), seed)
        require_usable(first, synthetic)
        size = min(batch, len(first.labels))
        steps = max(1, round((epochs or EPOCHS[net]) * len(first.labels) / size))
        recipe = Recipe(net, steps, size, min(first.images.shape[2:]) // 8, xflip, lr)
        data = training_sets(first, synthetic, [which for which in SETS if which in sets])
        cells = describe(recipe, data, held_out, range(seeds), place)
        found = trained(cells, Cells(folder), recipe, data, held_out, first.num_classes, place)
    result = report(found, recipe, first, synthetic, held_out)
    result.about.update(
        seeds=seeds, subset_seed=seed, device=place.type, torch=torch.__version__, sampling=made or None
    )
    if dest is not None and distributed.is_main():
        result.save(dest)
    return result


def require_usable(real: Labelled, other: Labelled) -> None:
    """Raise UserError if images do not fit the real ones or lack a class."""
    require_fitting(real, [other])
    require_all_classes(other, real.num_classes)
    if real.num_classes < 2:
        raise UserError(f"{real.path} has one class; a classifier needs at least two")


@contextmanager
def work_folder(work: str | os.PathLike | None, dest: str | os.PathLike | None) -> Iterator[Path]:
    """Yield the folder for finished trainings and samples, the same in all processes; a temporary one without names."""
    if work is not None or dest is not None:
        folder = Path(f"{dest}.work" if work is None else work)
        if distributed.is_main():
            require_writable(folder / "file")
        yield folder
        return
    temporary = TemporaryDirectory(prefix="elucid-cas-") if distributed.is_main() else None
    try:
        yield Path(distributed.broadcast_object(temporary.name if temporary else None))
        distributed.barrier()
    finally:
        if temporary:
            temporary.cleanup()


def sample(
    network: str,
    real: Labelled,
    seeds: Sequence[int] | None,
    options: SampleOptions,
    batch: int,
    device: torch.device,
    folder: Path,
) -> tuple[str, dict[str, Any]]:
    """Sample as many labelled images as real ones into the work folder, where a call that was cut short goes on.

    Returns their folder and how they were made. Raises UserError if size, channels or classes are not the real ones'.
    """
    num = len(real.labels)
    seeds = list(dict.fromkeys(range(num) if seeds is None else seeds))
    if len(seeds) < num:
        raise UserError(f"{len(seeds)} different `sample_seeds`, fewer than the {num} real images; give `num`")
    pipeline = load_pipeline(network, options, device)
    if pipeline.label_dim != real.num_classes:
        raise UserError(f"{network} has {pipeline.label_dim or 'no'} classes, {real.path} {real.num_classes}")
    if pipeline.image_shape != real.images.shape[1:]:
        ours, theirs = shape_text(pipeline.image_shape), shape_text(real.images.shape[1:])
        raise UserError(f"images of different shapes: those of {network} {ours} but {real.path} {theirs}")
    if options.classes is None and options.class_policy is None:
        options = replace(options, class_policy="data" if pipeline.class_counts else "equal")
    made = {**pipeline.description, "class_policy": options.class_policy, "seeds": spans(seeds[:num])}
    out = folder / f"samples-{digest(made)}"
    generate(network, out, seeds[:num], options, device=str(device), batch=batch, subdirs=True, labels=True)
    distributed.barrier()  # the main process writes the labels
    return str(out), {**made, "network": network, "network_sha256": made["network"]}


def training_sets(real: Labelled, synthetic: Labelled, sets: Sequence[str]) -> Data:
    """Return the images and labels of each set."""
    parts = {"real": [real], "synthetic": [synthetic], "both": [real, synthetic]}
    return {
        which: (
            torch.from_numpy(np.concatenate([one.images for one in parts[which]])),
            torch.from_numpy(np.concatenate([one.labels for one in parts[which]])),
        )
        for which in sets
    }


def describe(recipe: Recipe, data: Data, test: Labelled, seeds: Sequence[int], device: torch.device) -> list[Cell]:
    """Return everything that determines the scores of each training, those of a seed one after the other."""
    tested_on = content_hash(test.images, test.labels)
    hashes = {which: content_hash(images.numpy(), labels.numpy()) for which, (images, labels) in data.items()}
    common = {**asdict(recipe), "test": tested_on, "device": device.type}
    return [{"set": which, "seed": seed, "train": hashes[which], **common} for seed in seeds for which in data]


def content_hash(images: np.ndarray, labels: np.ndarray) -> str:
    """Return the SHA-256 of images and labels."""
    found = hashlib.sha256(str(images.shape).encode())
    for array in (images, labels.astype("<i8")):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def trained(
    cells: list[Cell],
    store: Cells,
    recipe: Recipe,
    data: Data,
    test: Labelled,
    classes: int,
    device: torch.device,
) -> dict[str, list[Scores]]:
    """Return the scores of all trainings by set; those that are not in the store are done, shared among processes."""
    stored = [store.load(cell) for cell in cells] if distributed.is_main() else None
    stored = distributed.broadcast_object(stored)
    done = {index: scores for index, scores in enumerate(stored) if scores is not None}
    if done:
        distributed.print0(f"{len(done)} of {len(cells)} trainings are in {store.folder}", file=sys.stderr)
    missing = [index for index in range(len(cells)) if index not in done]
    mine = missing[distributed.rank() :: distributed.world_size()]
    images = torch.from_numpy(test.images)
    set_precision("fp32", bench=False)

    def run(cell: Cell, on_step: OnStep) -> Scores:
        classifier = train_classifier(recipe, *data[cell["set"]], classes, cell["seed"], device, on_step)
        logits = classify(classifier, images, device).numpy()
        if not np.isfinite(logits).all():
            raise UserError(f"the training on {cell['set']}, seed {cell['seed']}, diverged; lower `lr`={recipe.lr}")
        scores = score(logits, test.labels)
        store.save(cell, scores)
        return scores

    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    try:
        found = in_parallel([cells[index] for index in mine], run, recipe.steps, device)
    finally:
        torch.backends.cudnn.deterministic = before
    for part in distributed.gather_objects(list(zip(mine, found, strict=True))):
        done.update(part)
    return {which: [done[index] for index, cell in enumerate(cells) if cell["set"] == which] for which in data}


def report(
    found: dict[str, list[Scores]], recipe: Recipe, real: Labelled, synthetic: Labelled, test: Labelled
) -> Result:
    """Put the scores into tables; the main number is that of synthetic images, if they are there."""
    main = "synthetic" if "synthetic" in found else next(iter(found))
    seeds, count = len(found[main]), len(test.labels)
    top1 = tables.summary_of(found[main], "top1", count)
    used = {"real": real, "synthetic": synthetic, "test": test}
    names = [real.name(index) for index in range(real.num_classes)]
    interval = "Student's over seeds" if seeds > 1 else "Wilson's of the test images"
    lines = [
        *(f"{what}: {len(one.labels)} images of {one.path}" for what, one in used.items()),
        f"{recipe.net}, {seeds} trainings each, {recipe.steps} steps of {recipe.batch} images; intervals {interval}",
        tables.difference_line(found),
    ]
    of_each = np.bincount(test.labels, minlength=real.num_classes).tolist()
    skew = max(of_each) / min(of_each)
    if skew > SKEWED:
        lines.append(f"the largest class has {skew:.1f} times as many test images as the smallest: see AUROC, too")
    about = {
        **{what: one.path for what, one in used.items()},
        **{f"{what}_sha256": content_hash(one.images, one.labels) for what, one in used.items()},
        **asdict(recipe),
    }
    return Result(
        kind="cas",
        name=f"cas_{recipe.net}" if main == "synthetic" else f"accuracy_{main}_{recipe.net}",
        value=top1.mean,
        interval=top1.interval,
        lines=tuple(filter(None, lines)),
        tables=(tables.score_table(found, count), tables.class_table(found, names, of_each)),
        curves=(tables.calibration_curve(found),),
        about=about,
    )
