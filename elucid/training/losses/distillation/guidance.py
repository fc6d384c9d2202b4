"""Distillation of guidance: one evaluation for two, with the scale as a condition."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.guidance.base import Interval
from elucid.training.losses.base import Copies, Load
from elucid.training.losses.distillation.teacher import open_teacher, require_path
from elucid.training.losses.dsm import DSM, DSMEvaluation
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, NetSpec


class GuidanceDistillation(DSM):
    """lambda |D(x; sigma, w) - D_w|^2 with the teacher's D_w = D_u + w (D_c - D_u), lambda = 1/c_out^2 as in DSM.

    The first stage of Meng et al. 2023, arXiv 2210.03142. D_u is the teacher without labels. w ~ U(`scales`) is the
    condition `guidance_scale`; 1 is no guidance, the paper's w + 1. For sigma outside (lo, hi] of `interval` the target
    is D_c. A snapshot is sampled with `guidance` in that range, by one evaluation for two. Raises UserError without a
    teacher, and for classes that one of both lacks.
    """

    uses_all_parameters = True
    copies = Copies(opened=1)

    def __init__(
        self,
        noise: NoiseDistribution,
        teacher: str | None = None,
        scales: list[float] = (1.0, 5.0),
        interval: list[float] | None = None,
    ):
        super().__init__(noise)
        if len(scales) != 2 or not 0 <= scales[0] < scales[1]:
            given = ",".join(f"{one:g}" for one in scales)
            raise UserError(f"loss.scales=[{given}] must be LO,HI, 0 <= LO < HI, e.g. [1,5]")
        self.path, self.scales, self.interval = teacher, tuple(scales), Interval(interval)

    @property
    def is_its_error(self) -> bool:
        """False: what other losses add on is about the image."""
        return False

    def adapt(self, spec: NetSpec) -> NetSpec:
        return spec.with_vector("guidance_scale", 1)

    def check(self, denoiser: Preconditioned) -> None:
        super().check(denoiser)
        require_path(self, self.path)
        if not denoiser.spec.label_dim:
            raise UserError("the loss guidance_distillation is about classes, and the run has none; use `cond`=1")

    def setup(self, denoiser: Preconditioned, load: Load) -> None:
        super().setup(denoiser, load)
        teacher = open_teacher(self, load, self.path, denoiser)
        if not teacher.spec.label_dim:
            raise UserError(f"`teacher`={self.path} has no classes, so there is no guidance to learn; choose another")
        self.teacher = teacher

    def evaluate(
        self, denoiser: Denoiser, batch: Batch, sigma: Tensor | None = None, noise: Tensor | None = None
    ) -> DSMEvaluation:
        """As `DSM.evaluate`, with the teacher's guided prediction for the image; also draws the scale, last."""
        if sigma is None:
            sigma = self.noise.sample(len(batch), denoiser, batch.images.device)
        if noise is None:
            noise = torch.randn_like(batch.images)
        low, high = self.scales
        scale = low + (high - low) * torch.rand(len(batch), 1, device=batch.images.device)
        x = batch.images + noise * sigma
        told = {**batch.cond, "guidance_scale": scale}
        return self.against(denoiser, x, sigma, told, self.target(x, sigma, batch, scale))

    @torch.no_grad()
    def target(self, x: Tensor, sigma: Tensor, batch: Batch, scale: Tensor) -> Tensor:
        """Return the teacher's guided x0 [B,C,H,W] at scales [B,1]."""
        main = self.teacher(x, sigma, batch.cond).x0
        none = {"labels": torch.zeros_like(batch.cond["labels"])}
        weak = self.teacher(x, sigma, {**batch.cond, **none}).x0
        scale = torch.where(self.interval.contains(sigma), scale.reshape(-1, 1, 1, 1), 1.0)
        return weak + scale * (main - weak)
