"""Draws a learned weighting of noise levels beside the loss that it follows, at each snapshot."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.evaluation.charts import drawing
from elucid.evaluation.results import FOLDER, Curve, Result, Series
from elucid.torch_utils import distributed
from elucid.training.hooks.base import Hook
from elucid.training.losses.by_level import (
    errors_of,
    loss_weights,
    noise_of,
    require_measurable,
    training_levels,
    undisturbed,
)
from elucid.training.losses.dsm import DSM
from elucid.training.preconds.base import Denoiser
from elucid.training.transforms.maps import maps_among

IMAGES, LEVELS, BATCH = 32, 12, 32
PICTURE = "weighting-{}.svg"


class LearnedWeighting(Hook):
    """Writes `weighting-NNNNNN.svg` and `evaluations/weighting.json`: exp(u) and the loss per element against sigma.

    Both are of the first average; the loss is that of `IMAGES` training images, always the same, at levels that are
    quantiles of those in training. What is measured is denoising with EDM's weight, on which the weighting of the loss
    `uncertainty(edm)` lies when it has learned its task; that of another base follows that one's own sum, and no
    distance is given. Training goes on as without.
    """

    reads_snapshots = False

    def on_start(self, run, folder: Path) -> None:
        self.folder = folder

    def on_snapshot(self, run, path: Path) -> None:
        name = next(iter(run.averages))
        with undisturbed(run.device), run.gathered(name):
            curve, distance = measured(run, run.averages[name])
        if not distributed.is_main():
            return
        with write_output(self.folder / PICTURE.format(run.kimg_label)) as file:
            file.write(drawing(curve).encode())
        lines = (f"distance of u from the logarithm of the loss: {distance:.3g}",) if distance is not None else ()
        about = {"average": name, "images": IMAGES, "levels": LEVELS, "nimg": run.nimg}
        result = Result("weighting", "u", distance or 0.0, lines=lines, curves=(curve,), about=about)
        (self.folder / FOLDER).mkdir(exist_ok=True)
        result.save(self.folder / FOLDER / "weighting.json")


def measured(run, denoiser: Denoiser) -> tuple[Curve, float | None]:
    """Return the curves, and the root mean square of u - ln(loss) where u is to follow that loss. All must call it."""
    sigmas = training_levels(noise_of(run.loss), denoiser, LEVELS)
    learned = weighting(denoiser, sigmas).exp().tolist()
    lines = [Series("exp(u), learned", tuple(zip(sigmas.tolist(), learned, strict=True)))]
    distance = None
    try:
        require_measurable(denoiser, run.encoder, run.dataset, "the loss by noise level")
    except UserError:  # of models that enlarge images, for instance
        pass
    else:
        count = min(IMAGES, len(run.dataset))
        chosen = np.sort(np.random.default_rng(0).permutation(len(run.dataset))[:count]).tolist()
        how = {"seed": 0, "batch": BATCH, "device": run.device, "step": lambda images: None}
        how["maps"] = maps_among(run.stream.transforms)
        errors = errors_of(denoiser, run.encoder, run.dataset, chosen, sigmas, **how)
        losses = loss_weights(denoiser, sigmas.to(run.device), run.loss).numpy() * errors.mean(axis=0)
        points = tuple(zip(sigmas.tolist(), losses.tolist(), strict=True))
        lines.append(Series("denoising loss with EDM's weight, measured", points))
        if type(getattr(run.loss, "base", None)) is DSM:
            distance = float(np.sqrt(np.mean(np.square(np.log(learned) - np.log(losses)))))
    title = f"learned weighting at {run.nimg / 1000:g} kimg"
    return Curve(title, "sigma", "loss per element", tuple(lines), log_x=True, log_y=True), distance


@torch.no_grad()
def weighting(denoiser: Denoiser, sigmas: Tensor) -> Tensor:
    """Return u at noise levels [N], on the host."""
    device = next(denoiser.parameters()).device
    levels = sigmas.to(device, torch.float32).reshape(-1, 1, 1, 1)
    return denoiser.uncertainty(denoiser.level(denoiser.coefficients(levels).c_noise.reshape(-1))).cpu()
