"""Consistency of pairs: what all losses share that compare a denoiser at two points of one probability flow."""

from abc import abstractmethod

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.rng import random_state, random_state_kept, set_random_state
from elucid.training.losses.base import Copies, Load, Loss, name_of, require_denoiser
from elucid.training.losses.distillation.teacher import open_teacher
from elucid.training.losses.fewstep.distances import Distance, weight_of
from elucid.training.preconds.base import LEAST_LEVEL, Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, Step

SOLVERS = ("euler", "heun")

TINY = 1e-4
"""A noise level at which a consistency model must return its input."""


class ConsistencyPairs(Loss):
    """weight(t, r) d(f(x_t; t), f-(x_r; r)), x_t = y + t n, x_r on the probability flow through x_t, r < t.

    f = D is to be where the flow ends, the same for both points (Song et al. 2023, arXiv 2303.01469, definition 1). f-
    is without gradient, with the same dropout masks; at r = 0 it is x_0 itself. A subclass draws t and r (`levels`),
    and may take another f- (`target`). x_r = y + r n, an Euler step with the clean image in the place of D, or a step
    of the probability flow of a `teacher` by the `solver` euler or heun. `distance` and `weighting` are names of
    `distances`. The loss of an image is its published value, no sum over elements.
    """

    mean = True
    sampling = {"sampler": {"name": "consistency"}, "schedule": {"name": "chosen", "levels": [80.0, 0.821]}}

    uses_all_parameters = True

    def __init__(
        self, distance: str, c: float | None, weighting: str, teacher: str | None = None, solver: str = "heun"
    ):
        super().__init__()
        if solver not in SOLVERS:
            raise UserError(f"loss.solver={solver!r} is unknown; choose from {', '.join(SOLVERS)}")
        self.distance, self.weighting = Distance(distance, c), weight_of(weighting)
        self.teacher_path, self.solver = teacher, solver
        self.teacher = None

    @property
    def copies(self) -> Copies:  # type: ignore[override]
        return Copies(opened=int(self.teacher_path is not None))

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        require_boundary(self, denoiser)

    def setup(self, denoiser: Denoiser, load: Load) -> None:
        if self.teacher_path is not None:
            self.teacher = open_teacher(self, load, self.teacher_path, denoiser)

    @abstractmethod
    def levels(self, denoiser: Denoiser, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Draw t and r [B,1,1,1], 0 <= r < t."""

    def target(self, denoiser: Denoiser) -> Denoiser:
        """Return f-."""
        return denoiser

    def step_back(self, batch: Batch, x: Tensor, t: Tensor, r: Tensor, noise: Tensor) -> Tensor:
        """Return x_r."""
        if self.teacher is None:
            return batch.images + r * noise
        slope = (x - self.teacher(x, t, batch.cond).x0) / t
        lower = x + (r - t) * slope
        if self.solver == "euler":
            return lower
        at = positive(r)
        other = (lower - self.teacher(lower, at, batch.cond).x0) / at
        return torch.where(r > 0, x + (r - t) * (slope + other) / 2, lower)

    def terms(self, step: Step, t: Tensor, r: Tensor) -> dict[str, Tensor]:
        """Return what is logged beside the loss, e.g. the stage of a curriculum."""
        return {}

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        t, r = self.levels(denoiser, batch, step)
        loss = self.at(denoiser, batch, t, r, torch.randn_like(batch.images))
        return LossOutput(loss, {"loss": loss, **self.terms(step, t, r)})

    def at(self, denoiser: Denoiser, batch: Batch, t: Tensor, r: Tensor, noise: Tensor) -> Tensor:
        """Return the loss [B] at these levels [B,1,1,1] with unit noise [B,C,H,W]."""
        images, device = batch.images, batch.images.device
        x, state = images + t * noise, random_state(device)
        student = denoiser(x, t, batch.cond).x0
        with torch.no_grad(), random_state_kept(device):
            lower = self.step_back(batch, x, t, r, noise)
            set_random_state(state, device)
            target = self.target(denoiser)(lower, positive(r), batch.cond).x0
            target = torch.where(r > 0, target, lower.to(target.dtype))  # D(x; 0) = x
        return self.distance(student, target) * self.weighting(t, r, denoiser).reshape(-1)


def positive(r: Tensor) -> Tensor:
    """Return levels above 0 for those that a network is asked at, although nobody looks at what it says for 0."""
    return torch.where(r > 0, r, LEAST_LEVEL)


def require_boundary(loss: Loss, denoiser: Denoiser) -> None:
    """Raise UserError unless levels are continuous and D(x; 0) = x, without which consistency says nothing."""
    name, kind = name_of(loss), type(denoiser).__name__
    if denoiser.levels is not None:
        raise UserError(f"{name} needs any noise level, {kind} has {len(denoiser.levels)} steps; use `precond`=edm")
    low = torch.full((1, 1, 1, 1), max(TINY, denoiser.sigma_min), dtype=torch.float64)
    c = denoiser.coefficients(low)
    if abs(float(c.c_skip) - 1) > 0.01 or abs(float(c.c_out)) > 0.01:
        raise UserError(
            f"{name} needs a denoiser that returns its input at noise level 0, which {kind} with these options is not; "
            "use `precond`=edm"
        )
