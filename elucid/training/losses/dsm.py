"""Denoising score matching: the loss of VP, VE, iDDPM and EDM, which differ only in the distribution of sigma."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.training.losses.base import Load, Loss, per_element, require_denoiser
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, Cond, LossOutput, Prediction, Step


@dataclass
class DSMEvaluation:
    """Intermediate results of DSM, for losses that build on it: x [B,C,H,W], sigma and weight [B,1,1,1].

    `importance` [B,1,1,1], contained in the weight, compensates for a distribution that draws some sigma more often.
    """

    x: Tensor
    sigma: Tensor
    prediction: Prediction
    weight: Tensor
    error: Tensor  # weighted squared error, elementwise [B,C,H,W]
    importance: Tensor


class DSM(Loss):
    """lambda(sigma) |D(y + n; sigma) - y|^2, n ~ N(0, sigma^2), lambda = 1 / c_out^2 (Karras et al. 2022, eq. 8).

    The weight equalises the network's effective loss weight at all sigma (ibid., section 5). `noise` draws sigma.
    """

    uses_all_parameters = True

    def __init__(self, noise: NoiseDistribution):
        super().__init__()
        self.noise = noise

    @property
    def is_its_error(self) -> bool:
        """Whether the loss is the sum of the errors of `evaluate`, so that another loss may build on these."""
        return type(self).forward is DSM.forward

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        self.noise.check(denoiser)

    def setup(self, denoiser: Preconditioned, load: Load) -> None:
        self.noise.setup(denoiser)

    def weight_at(self, denoiser: Denoiser, sigma: Tensor) -> Tensor:
        """Return lambda at sigma [B,1,1,1]."""
        return denoiser.coefficients(sigma).c_out ** -2

    def evaluate(
        self, denoiser: Denoiser, batch: Batch, sigma: Tensor | None = None, noise: Tensor | None = None
    ) -> DSMEvaluation:
        """Denoise at `sigma` [B,1,1,1] with unit `noise` [B,C,H,W]; draws those not given, sigma first."""
        if sigma is None:
            sigma = self.noise.sample(len(batch), denoiser, batch.images.device)
        if noise is None:
            noise = torch.randn_like(batch.images)
        return self.against(denoiser, batch.images + noise * sigma, sigma, batch.cond, batch.images)

    def against(self, denoiser: Denoiser, x: Tensor, sigma: Tensor, cond: Cond, target: Tensor) -> DSMEvaluation:
        """Return the weighted error of D(x; sigma) against a target [B,C,H,W]."""
        prediction = denoiser(x, sigma, cond)
        importance = self.noise.importance(sigma, denoiser)
        weight = importance * self.weight_at(denoiser, sigma)
        error = weight * (prediction.x0 - target) ** 2
        return DSMEvaluation(x, sigma, prediction, weight, error, importance)

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        one = self.evaluate(denoiser, batch)
        return self.output(denoiser, batch, one, one.error.sum(dim=(1, 2, 3)))

    def output(self, denoiser: Denoiser, batch: Batch, one: DSMEvaluation, loss: Tensor, **terms: Tensor) -> LossOutput:
        """Return `loss` and `terms` [B], logged per element, and tell `noise` the loss of each image."""
        self.noise.observe(one.sigma, (loss / one.importance.reshape(-1)).detach(), denoiser)
        terms = {"loss": loss, **terms}
        return LossOutput(loss, {name: per_element(term, batch.images) for name, term in terms.items()})

    def after_step(self, denoiser: Preconditioned, step: Step, stepped: AbstractSet[str]) -> None:
        self.noise.after_step()
