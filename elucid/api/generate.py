"""Samples from a snapshot into a folder, in one process or under torchrun."""

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed
from elucid.training.sampling.classes import class_folders, class_of_each, seeds_per_class
from elucid.training.sampling.generate import seed_list
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.output.choices import OutputChoices, write_npz
from elucid.training.sampling.output.folder import SampleFolder, digest
from elucid.training.sampling.output.grid import enlarged_grid, rows_of_classes, save_grid
from elucid.training.sampling.output.summary import require_members, write_summary
from elucid.training.sampling.pipeline import SamplingPipeline, load_pipeline

MOST_IN_GRID = 1024
DEFAULT_SEEDS = range(64)


def generate(
    network: str | os.PathLike,
    outdir: str | os.PathLike,
    seeds: Iterable[int] | None = None,
    options: SampleOptions | None = None,
    *,
    device: str | None = None,
    batch: int = 64,
    subdirs: bool = False,
    labels: bool = False,
    per_class: int | None = None,
    class_dirs: bool = False,
    overwrite: bool = False,
    grid: str | os.PathLike | None = None,
    grid_classes: bool = False,
    output: OutputChoices | None = None,
) -> Path:
    """Sample from a snapshot, write one file per seed to the folder `outdir`, and return it, as `generate.py` does.

    `network` is what `elucid.load` takes; `seeds` are 0 to 63 by default. Images that are there already are skipped
    unless `overwrite`. `labels` writes dataset.json, `grid` an image grid of the first samples (with `grid_classes` one
    row per class), `subdirs` uses one folder per 1000 seeds. `class_dirs` uses a folder per class, and writes
    dataset.json as well. `per_class` = N makes N images of each class: class c has the seeds from s + c N to
    s + (c+1) N - 1, where s is the only one of `seeds`, by default 0. Pictures are PNGs and arrays `.npy` files in the
    data's own units, unless `output` chooses otherwise. Under torchrun all processes must call it. Raises UserError for
    options that do not fit the snapshot or the folder.
    """
    given, options = None if seeds is None else seed_list(seeds), options or SampleOptions()
    if per_class is not None and options.classes is not None:
        raise UserError("`per_class` makes images of all classes; leave `classes` out, or `per_class`")
    if per_class is not None and options.class_policy is not None:
        raise UserError("`per_class` makes as many images of each class; leave `class_policy` out, or `per_class`")
    network, outdir, grid = os.fspath(network), os.fspath(outdir), None if grid is None else os.fspath(grid)
    place = distributed.choose_device(device)
    distributed.init(place)
    check_grid(grid, outdir)
    pipeline, output = load_pipeline(network, options, place), output or OutputChoices()
    seeds = default_seeds(pipeline) if given is None else given
    output.check(pipeline.encoder, pipeline.image_shape[0])
    for name, value in (("labels", labels), ("class_dirs", class_dirs)):
        if value and not pipeline.label_dim:
            raise UserError(f"`{name}`: the model was trained without classes; leave `{name}` out")
    if per_class is not None:
        seeds, pipeline.classes = seeds_per_class(per_class, pipeline.label_dim, given)
    pipeline.require(seeds)
    if output.summary is not None:
        require_members(seeds, pipeline.given, output.summary)
    wanted = class_of_each(seeds, pipeline.classes_of(seeds))
    # The image of a seed is that of its class, whether this was drawn or is in a list.
    description = {**pipeline.description, **output.description(pipeline.encoder)}
    made_by = digest({**description, "class": None} if wanted else description)
    folders = class_folders(pipeline.label_dim, pipeline.class_names) if class_dirs else None
    form, described = output.form(pipeline.encoder), output.described(pipeline.encoder)
    folder = SampleFolder(outdir, made_by, subdirs, folders, form, described)
    seeds = list(dict.fromkeys(seeds))
    # Only one process checks: another could find images that the first has just made in this run.
    classes = {} if overwrite or not distributed.is_main() else folder.finished(seeds, wanted)
    classes = distributed.broadcast_object(classes)
    missing = [seed for seed in seeds if seed not in classes]
    share = min(batch, -(-len(missing) // distributed.world_size()) or 1)
    mine = [seed for part in distributed.rank_share(missing, share) for seed in part]

    samples = pipeline.generate(mine, batch, [wanted[seed] for seed in mine] if wanted else None)
    bar = progress_bar(total=len(mine), desc="sampling", disable=not distributed.is_main() or not mine)
    with bar, folder.writing() as write, closing(samples):
        for part in samples:
            write(part)
            bar.update(len(part.seeds))
            if part.labels is not None:
                classes.update(zip(part.seeds, part.labels.tolist(), strict=True))
    for of_one_process in distributed.gather_objects(classes):
        classes.update(of_one_process)
    if distributed.is_main():
        folder.describe()
        classes = {seed: classes.get(seed) for seed in seeds}  # None without classes
        if class_dirs and overwrite:
            folder.remove_others(classes)
        if labels or class_dirs:
            folder.write_labels(classes, pipeline.class_names)
        if grid:
            first = {seed: classes[seed] for seed in seeds[:MOST_IN_GRID]}
            members = 1 if pipeline.given is None else pipeline.given.members
            images, columns = output.pictures(folder.read(first), pipeline.encoder), members if members > 1 else None
            if grid_classes and pipeline.label_dim:
                shown = torch.tensor(list(first.values()))
                images, columns = rows_of_classes(images, shown, pipeline.label_dim)
            save_grid(enlarged_grid(images, columns), grid)
        if output.summary is not None:
            write_summary(folder, classes, pipeline.given, output.summary)
        if output.npz is not None:
            write_npz(folder, classes, output.npz)
    distributed.print0(f"{folder.path}: {len(missing)} images generated, {len(seeds) - len(missing)} already present")
    return folder.path


def default_seeds(pipeline: SamplingPipeline) -> Sequence[int]:
    """Return all samples of all conditions, if a number for each is given, or else the first 64 seeds."""
    if pipeline.given is None or pipeline.given.members == 1:
        return DEFAULT_SEEDS
    return range(pipeline.given.members * len(pipeline.given))


def check_grid(grid: str | None, outdir: str) -> None:
    """Raise UserError for a grid file that would count as one of the samples."""
    if grid is None:
        return
    if not grid.lower().endswith(".png"):
        raise UserError(f"`grid`={grid} must end in .png")
    if Path(outdir).resolve() in Path(grid).resolve().parents:
        raise UserError(f"`grid`={grid} is inside `outdir`, where it would count as a sample; choose another place")
    if distributed.is_main():
        require_writable(grid)
