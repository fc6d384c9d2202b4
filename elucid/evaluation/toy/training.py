"""Trains a model of points with the loop's own step, on points that are drawn anew for each batch."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError, note
from elucid.dnnlib.progress import progress_bar
from elucid.evaluation.toy.mixture import Mixture
from elucid.torch_utils.rng import seed_everything
from elucid.torch_utils.stats import Statistics
from elucid.training.config.build import build, make_denoiser
from elucid.training.divergence import Divergence
from elucid.training.loop import train_step
from elucid.training.objective import Objective
from elucid.training.optim.optimizers import make_optimizer
from elucid.training.optim.phase import PhaseOptimizer
from elucid.training.preconds.base import Denoiser
from elucid.training.registry.components import make
from elucid.training.snapshots.transfer import Teacher, load_teacher
from elucid.training.types import Batch, NetSpec, Step

CPU = torch.device("cpu")
OF_POINTS = ("points", "points_mlp")
"""The networks whose input c_noise is brought to the size of the others."""

RANGE, LARGE = (0.002, 5.0), 10.0
"""Noise levels of points, and the c_noise from which on its logarithm is taken."""

REPORTS = 20
"""How often the loss is noted."""


class Points:
    """A stream of batches of a point set; each label is dropped with some probability."""

    position, waited = 0, 0.0

    def __init__(self, mixture: Mixture, seed: int, labelled: bool, label_dropout: float):
        self.mixture, self.labelled, self.label_dropout = mixture, labelled, label_dropout
        self.generator = torch.Generator().manual_seed(seed)

    def next(self, count: int) -> Batch:
        points, classes = self.mixture.sample(count, self.generator)
        images = points.float()[:, :, None, None]
        if not self.labelled:
            return Batch(images)
        labels = F.one_hot(classes, self.mixture.num_classes).float()
        kept = torch.rand(count, 1, generator=self.generator) >= self.label_dropout
        return Batch(images, {"labels": labels * kept})


class PointRun:
    """What `train_step` needs of a run. `options` are components by part, and `train` those of the training.

    With a `teacher` a loss gets it, whatever path it names; `start` gives the weights that the network starts from.
    """

    def __init__(
        self,
        mixture: Mixture,
        options: dict[str, Any],
        train: dict[str, Any],
        labelled: bool,
        teacher: Denoiser | None = None,
        start: Denoiser | None = None,
    ):
        self.seed, self.batch, self.steps = train["seed"], train["batch"], train["steps"]
        seed_everything(self.seed)
        spec = NetSpec((1, 1), 2, vector={"labels": mixture.num_classes} if labelled else {})
        options = {**options, "encoder": {"name": "rgb"}, "augment": None}
        parts = build({**options, "network": with_noise_fitting(options, spec)}, spec)
        self.denoiser, self.loss = parts.denoiser.train(), parts.loss
        if not isinstance(self.denoiser, Denoiser):
            raise UserError("`precond` is a classifier; the laboratory trains denoisers")
        if start is not None:
            self.denoiser.load_state_dict(start.state_dict())
        given = None if teacher is None else Teacher(copy.deepcopy(teacher))
        self.loss.setup(self.denoiser, lambda path: given or load_teacher(path, CPU))
        self.objective = Objective(self.denoiser, self.loss)
        self.ema = make(options["ema"], "ema", "ema", denoiser=self.denoiser)
        schedule = make(options["lr_schedule"], "lr_schedule")
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.optimizers = {}
        for phase in self.loss.all_phases:
            named = list(self.loss.parameters_of(self.denoiser, phase))
            made = make_optimizer({**options["optimizer"], **self.loss.optimizer_options(phase)}, named)
            kind = type(self.loss).__name__
            self.optimizers[phase] = PhaseOptimizer(made, schedule, named, self.scaler, None, phase, kind)
        self.stream = Points(mixture, self.seed, labelled, train["label_dropout"])
        self.stats, self.divergence = Statistics(), Divergence(10, note)
        self.micro_batch_size, self.grad_accum_steps = self.batch, 1
        self.index = self.nimg = 0

    @property
    def step(self) -> Step:
        return Step(self.index, self.nimg, self.batch * self.steps, self.seed, self.batch)

    def train(self, name: str, log: Callable[[str], None] = lambda text: None) -> list[tuple[float, float]]:
        """Train to the end; return the loss over thousands of points. Raises UserError if it diverges."""
        losses, every = [], max(self.steps // REPORTS, 1)
        with progress_bar(range(self.steps), desc=name, unit="step", leave=False, delay=1) as bar:
            for index in bar:
                train_step(self, self.objective)
                if self.divergence.too_many:
                    raise UserError(f"training has diverged in {self.divergence.describe(self.objective)}; lower `lr`")
                if (index + 1) % every == 0:
                    loss = self.stats.collect()["Loss/loss"]["mean"]
                    losses.append((self.nimg / 1000, loss))
                    bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        return losses

    @property
    def average(self) -> Denoiser:
        """The first average."""
        return next(iter(self.ema.averages.values()))


def with_noise_fitting(options: dict[str, Any], spec: NetSpec) -> dict[str, Any]:
    """Return the network's options, for one of points with `log_noise` if the preconditioner's c_noise is large."""
    network = options["network"]
    if network["name"] not in OF_POINTS or "log_noise" in network:
        return network
    counts = make_denoiser({"name": "points_mlp"}, options["precond"], spec, weights=False)
    ends = torch.tensor(RANGE).reshape(-1, 1, 1, 1)
    return {**network, "log_noise": bool(counts.coefficients(ends).c_noise.abs().max() > LARGE)}
