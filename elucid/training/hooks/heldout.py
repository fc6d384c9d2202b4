"""The loss of held-out images beside that of training images, at each snapshot: the first sign of overfitting."""

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed
from elucid.training.config.data import open_maps, options_beside, read_dataset
from elucid.training.config.settings import DataOptions
from elucid.training.data.base import Dataset
from elucid.training.data.conditions.maps import Maps
from elucid.training.hooks.base import Hook, Values
from elucid.training.losses.by_level import (
    errors_of,
    loss_weights,
    noise_of,
    require_measurable,
    training_levels,
    undisturbed,
)
from elucid.training.transforms.maps import maps_among


class HeldoutLoss(Hook):
    """Adds to the statistics of ticks with a snapshot `Heldout/loss`, `Heldout/train_loss` and `Heldout/gap`.

    The loss is lambda(sigma) |D(y + n; sigma) - y|^2 per element, lambda = 1 / c_out^2 (Karras et al. 2022, eq. 8), of
    the first EMA: the mean over `num` images of `data` (a folder or zip) or of the training data, and over `levels`
    noise levels, quantiles of those in training. Images and noise are the same at each call, chosen by `seed`. The gap
    is held-out minus training loss; `Heldout/gap_sigmas` is it in standard errors: above 3, the model overfits.
    `Heldout/loss_sigma=S` and so on are those of a level, `Timing/heldout_sec` is the time that it took. The training
    is bit by bit the same as without. `cond_images` are the maps of the images of `data`, for models that take maps.
    """

    adds_values = True

    def __init__(
        self,
        data: str,
        num: int = 256,
        levels: int = 4,
        seed: int = 0,
        batch_size: int = 64,
        cond_images: str | None = None,
    ):
        for name, value in (("num", num), ("levels", levels), ("batch_size", batch_size)):
            if not isinstance(value, int) or value < (2 if name == "num" else 1):
                raise UserError(f"hook heldout: {name}={value!r} must be an integer of at least {1 + (name == 'num')}")
        self.data, self.num, self.levels, self.seed, self.batch_size = data, num, levels, seed, batch_size
        self.cond_images = cond_images

    def check(self, run) -> None:
        """Open the images. Raises UserError if they do not fit the run."""
        require_measurable(run.denoiser, run.encoder, run.dataset, "`heldout`")
        self.maps = maps_among(run.stream.transforms)
        if self.maps is None and self.cond_images is not None:
            raise UserError(f"`heldout_cond_images`={self.cond_images}: the model takes no maps; leave it out")
        held_out = self.opened(run)
        require_measurable(run.denoiser, run.encoder, held_out, "`heldout`")
        self.sets = {
            name: (dataset, np.sort(np.random.default_rng(self.seed).permutation(len(dataset))[: self.num]).tolist())
            for name, dataset in (("loss", held_out), ("train_loss", run.dataset))
        }
        smallest = min(len(indices) for _, indices in self.sets.values())
        if smallest < 2:
            raise UserError(f"`heldout`: a loss needs at least 2 images on each side, not {smallest}; give more")
        self.sigmas = training_levels(noise_of(run.loss), run.denoiser, self.levels)

    def opened(self, run) -> Dataset:
        """Open the held-out images, with labels, axes and maps as those of the run are."""
        own = options_beside(DataOptions(**run.options["dataset"]), str(self.data))
        own = replace(own, cond_images=self.cond_images, cache="none", subset_seed=self.seed)
        own = replace(own, max_size=None if self.cond_images else self.num)  # maps are found by the names of all
        held_out = read_dataset(own)
        if self.cond_images is not None:
            held_out.maps = Maps(open_maps(own, held_out)[0], held_out)
            theirs, ours = held_out.maps.dataset.channels, self.maps.channels
            if theirs != ours:
                raise UserError(
                    f"`heldout_cond_images`={self.cond_images} has maps of {theirs} channels, the model takes {ours}"
                )
        return held_out

    def on_start(self, run, folder: Path) -> None:
        counts = " and ".join(str(len(indices)) for _, indices in self.sets.values())
        run.log(f"held out  {self.data}: loss of {counts} images at {len(self.sigmas)} noise levels at each snapshot")

    def on_tick(self, run, values: Values) -> None:
        every = run.loop.snapshot_ticks
        if run.nimg >= run.loop.total_nimg or (every and run.tick % every == 0):
            started = time.monotonic()
            with undisturbed(run.device), run.gathered(next(iter(run.averages))):
                found = self.measure(run)
            found["Timing/heldout_sec"] = (1, time.monotonic() - started, 0.0)
            values.update({name: {"num": n, "mean": mean, "std": std} for name, (n, mean, std) in found.items()})

    def measure(self, run) -> dict[str, tuple[int, float, float]]:
        """Return number, mean and standard deviation of each statistic. All processes must call it."""
        denoiser = next(iter(run.averages.values()))
        weights, found, means = loss_weights(denoiser, self.sigmas.to(run.device), run.loss).numpy(), {}, {}
        total = sum(len(indices) for _, indices in self.sets.values())
        with progress_bar(total=total, desc="held out", leave=False, delay=2, disable=not distributed.is_main()) as bar:
            for name, (dataset, indices) in self.sets.items():
                how = {"seed": self.seed, "batch": self.batch_size, "device": run.device, "step": bar.update}
                how["maps"] = self.maps
                losses = weights * errors_of(denoiser, run.encoder, dataset, indices, self.sigmas, **how)
                means[name] = losses.mean(1)
                found[f"Heldout/{name}"] = statistics(means[name])
                for sigma, of_level in zip(self.sigmas.tolist(), losses.T, strict=True):
                    found[f"Heldout/{name}_sigma={sigma:.3g}"] = statistics(of_level)
        gap = means["loss"].mean() - means["train_loss"].mean()
        error = math.sqrt(sum(one.var(ddof=1) / len(one) for one in means.values()))
        found["Heldout/gap"] = (1, float(gap), 0.0)
        found["Heldout/gap_sigmas"] = (1, float(gap / error) if error > 0 else 0.0, 0.0)
        return found


def statistics(values: np.ndarray) -> tuple[int, float, float]:
    return len(values), float(values.mean()), float(values.std())
