"""Denoising score matching: the loss of VP, VE, iDDPM and EDM, which differ only in the distribution of sigma."""

from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.training.losses.base import Loss, per_element, require_denoiser
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, Prediction, Step


@dataclass
class DSMEvaluation:
    """Intermediate results of DSM, for losses that build on it: x [B,C,H,W], sigma and weight [B,1,1,1]."""

    x: Tensor
    sigma: Tensor
    prediction: Prediction
    weight: Tensor
    error: Tensor  # weighted squared error, elementwise [B,C,H,W]


class DSM(Loss):
    """lambda(sigma) |D(y + n; sigma) - y|^2, n ~ N(0, sigma^2), lambda = 1 / c_out^2 (Karras et al. 2022, eq. 8).

    The weight equalises the network's effective loss weight at all sigma (ibid., section 5). `noise` draws sigma.
    """

    def __init__(self, noise: NoiseDistribution):
        super().__init__()
        self.noise = noise

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        self.noise.check(denoiser)

    def evaluate(
        self, denoiser: Denoiser, batch: Batch, sigma: Tensor | None = None, noise: Tensor | None = None
    ) -> DSMEvaluation:
        """Denoise at `sigma` [B,1,1,1] with unit `noise` [B,C,H,W]; draws those not given, sigma first."""
        if sigma is None:
            sigma = self.noise.sample(len(batch), denoiser, batch.images.device)
        if noise is None:
            noise = torch.randn_like(batch.images)
        x = batch.images + noise * sigma
        prediction = denoiser(x, sigma, batch.cond)
        weight = denoiser.coefficients(sigma).c_out ** -2
        error = weight * (prediction.x0 - batch.images) ** 2
        return DSMEvaluation(x, sigma, prediction, weight, error)

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        loss = self.evaluate(denoiser, batch).error.sum(dim=(1, 2, 3))
        return LossOutput(loss, {"loss": per_element(loss, batch.images)})
