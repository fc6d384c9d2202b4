"""Denoising score matching, the loss of VP, VE, iDDPM and EDM: they differ only in how sigma is drawn."""

from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss
from elucid.training.noise.distributions import DenoiserLevels, LogNormal, LogUniform, VPUniform
from elucid.training.preconds.base import Denoiser
from elucid.training.types import Batch, LossOutput, Prediction, Step


@dataclass
class DSMEvaluation:
    """One denoising of a batch, for losses that build on it: x [B,C,H,W], sigma and weight [B,1,1,1]."""

    x: Tensor
    sigma: Tensor
    prediction: Prediction
    weight: Tensor
    error: Tensor  # weighted squared error, elementwise [B,C,H,W]


class DSM(Loss):
    """lambda(sigma) |D(y + n; sigma) - y|^2, n ~ N(0, sigma^2), lambda = 1 / c_out^2 (Karras et al. 2022, eq. 8).

    The weight makes the network's effective target weigh the same at all sigma (ibid., section 5).
    """

    def __init__(self, distribution):
        super().__init__()
        self.distribution = distribution

    def evaluate(
        self, denoiser: Denoiser, batch: Batch, sigma: Tensor | None = None, noise: Tensor | None = None
    ) -> DSMEvaluation:
        """Denoise at `sigma` [B,1,1,1] with unit `noise` [B,C,H,W]; what is not given is drawn, sigma first."""
        if sigma is None:
            sigma = self.distribution.sample(len(batch), denoiser, batch.images.device)
        if noise is None:
            noise = torch.randn_like(batch.images)
        x = batch.images + noise * sigma
        prediction = denoiser(x, sigma, batch.cond)
        weight = denoiser.coefficients(sigma)[1] ** -2
        error = weight * (prediction.x0 - batch.images) ** 2
        return DSMEvaluation(x, sigma, prediction, weight, error)

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        return LossOutput(self.evaluate(denoiser, batch).error.sum(dim=(1, 2, 3)))


class EDMLoss(DSM):
    """DSM at ln sigma ~ N(P_mean, P_std^2)."""

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2):
        super().__init__(LogNormal(P_mean, P_std))


class VPLoss(DSM):
    """DSM at sigma(t), t ~ U(epsilon_t, 1), of the variance-preserving process."""

    def __init__(self, beta_d: float = 19.9, beta_min: float = 0.1, epsilon_t: float = 1e-5):
        super().__init__(VPUniform(beta_d, beta_min, epsilon_t))


class VELoss(DSM):
    """DSM at ln sigma ~ U(ln sigma_min, ln sigma_max)."""

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100.0):
        super().__init__(LogUniform(sigma_min, sigma_max))


class IDDPMLoss(DSM):
    """DSM at the discrete levels of an iDDPM denoiser, drawn evenly."""

    def __init__(self):
        super().__init__(DenoiserLevels())

    def check(self, denoiser: Denoiser) -> None:
        if not hasattr(denoiser, "u"):
            raise UserError(
                f"--loss=iddpm needs discrete noise levels, {type(denoiser).__name__} has none; use --precond=iddpm"
            )
