"""A distillation with a frozen teacher, and a target network that follows the student as an average."""

import copy

import torch

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss, per_element
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.types import LossOutput


class Distillation(Loss):
    """|D - D_teacher|^2 / c_out^2 at one noise level, plus `weight` times the same to the target network."""

    def __init__(self, noise: NoiseDistribution, teacher: str = "", decay: float = 0.9, weight: float = 0.5):
        super().__init__()
        if not teacher:
            raise UserError("loss.teacher is missing; give a snapshot by --set loss.teacher=PATH")
        self.noise, self.path, self.decay, self.weight = noise, teacher, decay, weight

    def setup(self, denoiser, load):
        self.teacher = load(self.path)
        if self.teacher.spec.sample_shape != denoiser.spec.sample_shape:
            raise UserError(f"loss.teacher makes {self.teacher.spec.sample_shape}, not {denoiser.spec.sample_shape}")
        self.target = copy.deepcopy(denoiser).eval().requires_grad_(False)

    def forward(self, denoiser, batch, step):
        sigma = self.noise.sample(len(batch), denoiser, batch.images.device)
        x = batch.images + torch.randn_like(batch.images) * sigma
        x0 = denoiser(x, sigma, batch.cond).x0
        with torch.no_grad():
            wanted, followed = self.teacher(x, sigma, batch.cond).x0, self.target(x, sigma, batch.cond).x0
        weight = denoiser.coefficients(sigma).c_out ** -2
        parts = {"teacher": weight * (x0 - wanted) ** 2, "target": weight * (x0 - followed) ** 2}
        sums = {name: part.sum(dim=(1, 2, 3)) for name, part in parts.items()}
        loss = sums["teacher"] + self.weight * sums["target"]
        return LossOutput(loss, {name: per_element(one, batch.images) for name, one in {"loss": loss, **sums}.items()})

    @torch.no_grad()
    def after_step(self, denoiser, step, stepped):
        if "main" in stepped:
            for old, new in zip(self.target.parameters(), denoiser.parameters(), strict=True):
                old.lerp_(new, 1 - self.decay)
