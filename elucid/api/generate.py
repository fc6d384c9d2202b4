"""Samples from a snapshot into a folder, in one process or under torchrun."""

import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed
from elucid.training.sampling.folder import SampleFolder, digest
from elucid.training.sampling.generate import seed_list
from elucid.training.sampling.grid import enlarged_grid, rows_of_classes, save_grid
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.pipeline import load_pipeline

MOST_IN_GRID = 1024


def generate(
    network: str | os.PathLike,
    outdir: str | os.PathLike,
    seeds: Iterable[int],
    options: SampleOptions | None = None,
    *,
    device: str | None = None,
    batch: int = 64,
    subdirs: bool = False,
    labels: bool = False,
    overwrite: bool = False,
    grid: str | os.PathLike | None = None,
    grid_classes: bool = False,
) -> Path:
    """Sample from a snapshot, write one PNG per seed to the folder `outdir`, and return it, as `generate.py` does.

    `network` is what `elucid.load` takes. Images that are there already are skipped unless `overwrite`. `labels` writes
    dataset.json, `grid` an image grid of the first samples (with `grid_classes` one row per class), `subdirs` uses one
    folder per 1000 seeds. Under torchrun all processes must call it. Raises UserError for options that do not fit the
    snapshot or the folder.
    """
    seeds, options = seed_list(seeds), options or SampleOptions()
    network, outdir, grid = os.fspath(network), os.fspath(outdir), None if grid is None else os.fspath(grid)
    place = distributed.choose_device(device)
    distributed.init(place)
    check_grid(grid, outdir)
    pipeline = load_pipeline(network, options, place)
    if labels and not pipeline.denoiser.spec.label_dim:
        raise UserError("`labels`: the model was trained without classes; leave `labels` out")
    folder = SampleFolder(outdir, digest(pipeline.description), subdirs)
    seeds = list(dict.fromkeys(seeds))
    # Only one process checks: another could find images that the first has just made in this run.
    classes = {} if overwrite or not distributed.is_main() else folder.finished(seeds)
    classes = distributed.broadcast_object(classes)
    missing = [seed for seed in seeds if seed not in classes]
    share = min(batch, -(-len(missing) // distributed.world_size()) or 1)
    mine = [seed for part in distributed.rank_share(missing, share) for seed in part]

    samples = pipeline.generate(mine, batch)
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
        if labels:
            folder.write_labels({seed: classes[seed] for seed in seeds}, pipeline.class_names)
        if grid:
            first = seeds[:MOST_IN_GRID]
            images, columns = folder.read(first), None
            if grid_classes and pipeline.denoiser.spec.label_dim:
                shown = torch.tensor([classes[seed] for seed in first])
                images, columns = rows_of_classes(images, shown, pipeline.denoiser.spec.label_dim)
            save_grid(enlarged_grid(images, columns), grid)
    distributed.print0(f"{folder.path}: {len(missing)} images generated, {len(seeds) - len(missing)} already present")
    return folder.path


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
