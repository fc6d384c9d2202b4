"""Progressive distillation (Salimans & Ho 2022, arXiv 2202.00512): a student's one step is two of its teacher's."""

import math
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Copies, Load, Loss, require_denoiser
from elucid.training.losses.distillation.teacher import copy_of_teacher, open_teacher, require_path
from elucid.training.losses.fewstep.curricula import halving
from elucid.training.noise.schedules import rho_levels
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, Step


class ProgressiveDistillation(Loss):
    """max(1 / t^2, 1) |D(x_t; t) - x0'|^2, x0' where a straight line through x_t starts to x_r, two DDIM steps on.

    t and r are neighbours of a grid of N + 1 levels of EDM's schedule (schedule `halvings`). N is halved from `start`
    to 1 in equal stages, of which the last two take twice as long (ibid., algorithm 2, appendix G). The first teacher
    is `teacher`; at each halving the student takes its place. The loss is the mean over an image's elements. Logged:
    `steps`, the N of the student. Raises UserError without a teacher, and unless `start` is a power of two.
    """

    uses_all_parameters = True
    mean = True
    copies = Copies(kept=1)
    sampling = {"sampler": {"name": "flow_map"}, "schedule": {"name": "halvings"}}

    @classmethod
    def sampling_with(cls, options: dict) -> dict[str, dict]:
        own = {name: options[name] for name in ("sigma_min", "sigma_max", "rho") if name in options}
        return {**cls.sampling, "schedule": {**cls.sampling["schedule"], **own}}

    def __init__(
        self,
        start: int = 64,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        teacher: str | None = None,
    ):
        super().__init__()
        if start < 2 or start & (start - 1):
            raise UserError(f"loss.start={start} must be a power of two, the student's first number of steps, e.g. 64")
        if not 0 < sigma_min < sigma_max or not rho > 0:
            raise UserError(f"loss.sigma_min={sigma_min:g}, loss.sigma_max={sigma_max:g}: need 0 < min < max, rho > 0")
        self.start, self.sigma_min, self.sigma_max, self.rho = start, sigma_min, sigma_max, rho
        self.teacher_path = teacher

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        require_path(self, self.teacher_path)

    def setup(self, denoiser: Denoiser, load: Load) -> None:
        """Make the teacher, a module of the loss, as students take its place."""
        given = open_teacher(self, load, self.teacher_path, denoiser)
        made = copy_of_teacher(given, denoiser, self.teacher_path, "whose student takes its place")
        self.teacher = made.eval().requires_grad_(False)
        self.register_buffer("current", torch.tensor(self.start))  # in states: a student never unlearns a halving
        self.register_load_state_dict_post_hook(lambda module, keys: module.restore())
        self.restore()

    def restore(self) -> None:
        """Read the student's number of steps from the state."""
        self.count = int(self.current)

    def steps(self, step: Step) -> int:
        """Return the student's number of steps: a function of the images seen, and never more than it was."""
        stages = int(math.log2(self.start)) + 3
        return min(halving(int(step.progress * stages), 1, self.start), self.count)

    def levels(self, place: Tensor, count: int) -> Tensor:
        """Return the levels at places 0 to N of the grid of `count` = N steps, also between its levels."""
        grid = rho_levels(2 * count + 1, self.sigma_min, self.sigma_max, self.rho, place.device)
        return grid[(2 * place).long()].to(torch.float32).reshape(-1, 1, 1, 1)

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        count = self.steps(step)
        place = torch.randint(count, (len(batch),), device=batch.images.device)
        loss = self.at(denoiser, batch, place, count, torch.randn_like(batch.images))
        return LossOutput(loss, {"loss": loss, "steps": loss.new_tensor(float(count))})

    def at(self, denoiser: Denoiser, batch: Batch, place: Tensor, count: int, noise: Tensor) -> Tensor:
        """Return the loss [B] of steps from these places of the grid of `count` steps, with unit noise."""
        t, middle, r = (self.levels(place + part, count) for part in (0, 0.5, 1))
        x = batch.images + t * noise
        with torch.no_grad():
            half = x + (middle - t) * (x - self.teacher(x, t, batch.cond).x0) / t
            end = half + (r - middle) * (half - self.teacher(half, middle, batch.cond).x0) / middle
            target = (t * end - r * x) / (t - r)
        weight = (1 / t**2).clamp_min(1).reshape(-1)
        return weight * (denoiser(x, t, batch.cond).x0 - target).square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def after_step(self, denoiser: Denoiser, step: Step, stepped: AbstractSet[str]) -> None:
        """Put the student in the teacher's place at a halving."""
        following = self.steps(step.replace(nimg=step.nimg + step.batch_size))
        if following != self.count:
            self.teacher.load_state_dict(denoiser.state_dict())
            self.count = following
            self.current.fill_(following)
