"""Saves a grid of samples next to every snapshot."""

import threading
import time
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed
from elucid.training.guidance.clipping import clipped
from elucid.training.hooks.base import Hook
from elucid.training.preconds.base import Denoiser
from elucid.training.registry.components import make
from elucid.training.sampling.conditions.given import of_run
from elucid.training.sampling.conditions.lowres import FromDataset
from elucid.training.sampling.cpu_blocks import block_size
from elucid.training.sampling.generate import generate
from elucid.training.sampling.output.colours import pictures_of
from elucid.training.sampling.output.grid import enlarged_grid, save_grid
from elucid.training.transforms.lowres import NAME

STEPS = 8
"""Number of sampling steps if the run's schedule sets none."""

SHARE, LEAST = 0.1, 3.0
"""A grid may take this fraction of the time since the last one, and at least this many seconds."""

FIRST = 4
"""Number of images sampled first to measure the time per image; on a CPU it is a block."""


class SampleGrid(Hook):
    """Writes `samples-NNNNNN.png`: samples of seeds 0, 1, 2, ... from the first EMA with the run's sampler.

    Sampling takes at most a tenth of the time since the last grid and gives at most `loop.grid_images` images; cells
    left over stay black. The main process samples while the others wait; a stop request ends it at once. Models that
    are not denoisers are skipped. A model that enlarges images is given the first of the dataset, made smaller. The
    image is passed to `loggers`.
    """

    reads_snapshots = False

    def __init__(self, loggers=None):
        self.loggers = loggers
        self.since = time.monotonic()

    def on_start(self, run, folder: Path) -> None:
        self.since = time.monotonic()

    def on_snapshot(self, run, path: Path) -> None:
        (name, denoiser), count = next(iter(run.averages.items())), run.loop.grid_images
        if count and isinstance(denoiser, Denoiser):
            with run.gathered(name, on_main=True):
                images = self.sample_in_time(run, denoiser, count) if distributed.is_main() else None
            if images is not None:
                picture = path.with_name(path.name.replace("network-snapshot", "samples")).with_suffix(".png")
                try:
                    save_grid(enlarged_grid(pictures_of(images, run.encoder), cells=count), picture)
                except UserError as error:  # a full disk, of which the states decide
                    run.log(f"warning: {error}")
                else:
                    if self.loggers is not None:
                        self.loggers.image("samples", picture, run.nimg)
        distributed.barrier()
        self.since = time.monotonic()

    def sample_in_time(self, run, denoiser: Denoiser, count: int) -> Tensor | None:
        """Return samples of the first seeds, or None if there was no time for any."""
        seconds = max(LEAST, SHARE * (time.monotonic() - self.since))
        started, over = time.monotonic(), threading.Event()

        def watch(*_) -> None:
            if over.is_set() or run.stop.requested or time.monotonic() - started > seconds:
                raise _OutOfTime

        sampler = make(run.sampler.preview, "sampler") if run.sampler.preview else run.sampler
        options = {"device": run.device, "sampler": sampler, "schedule": run.schedule}
        options["steps"] = min(STEPS, sampler.default_steps)
        if NAME in denoiser.spec.spatial and run.options.get("lowres"):
            factor = run.options["lowres"]["factor"]
            options["lowres"] = FromDataset(run.dataset, run.encoder, factor, run.device)
        options["given"] = of_run(run)
        parts: list[Tensor] = []
        first = block_size(denoiser) if run.device.type == "cpu" else FIRST
        try:
            with progress_bar(total=count, desc="samples", leave=False) as bar:
                for seeds in (range(min(first, count)), range(first, count)):
                    if parts:  # batches take less time per image
                        left = seconds - (time.monotonic() - started)
                        affordable = int(left / (time.monotonic() - started) * first)
                        seeds = seeds[: affordable // first * first if affordable < len(seeds) else len(seeds)]
                    with closing(generate(clipped(denoiser), run.encoder, seeds, callback=watch, **options)) as samples:
                        for part in samples:
                            parts.append(part.images.cpu())
                            bar.update(len(part.seeds))
        except _OutOfTime:
            pass
        finally:
            over.set()  # threads still sampling stop after their step
        if not parts and not run.stop.requested:
            run.log(f"note: no sample grid: {first} samples take more than {seconds:.0f} s (see loop.grid_images)")
        return torch.cat(parts) if parts and not run.stop.requested else None


class _OutOfTime(Exception):
    """Raised in the sampler's callback to stop sampling."""
