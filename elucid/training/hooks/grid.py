"""A picture of samples beside every snapshot."""

from pathlib import Path

import torch

from elucid.torch_utils import distributed
from elucid.training.hooks.base import Hook
from elucid.training.preconds.base import Denoiser
from elucid.training.sampling.generate import generate
from elucid.training.sampling.grid import save_grid


class SampleGrid(Hook):
    """`samples-NNNNNN.png`: images of seeds 0, 1, 2, ... from the first average, by the run's own sampler.

    The main process draws while the others wait. What predicts no images is not sampled. `loggers` get the picture.
    """

    def __init__(self, loggers=None):
        self.loggers = loggers

    def on_snapshot(self, run, path: Path) -> None:
        denoiser, count = next(iter(run.ema.averages.values())), run.loop.grid_images
        if distributed.is_main() and count and isinstance(denoiser, Denoiser):
            options = {"device": run.device, "sampler": run.sampler, "schedule": run.schedule}
            batches = [part.images for part in generate(denoiser, run.encoder, range(count), **options)]
            picture = path.with_name(path.name.replace("network-snapshot", "samples")).with_suffix(".png")
            save_grid(torch.cat(batches), picture)
            if self.loggers is not None:
                self.loggers.image("samples", picture, run.nimg)
        distributed.barrier()
