"""Base class of denoisers that wrap another denoiser: guidance, coordinate windows, bound conditions."""

import dataclasses

import torch
from torch import Tensor, nn

from elucid.training.noise.processes import Process
from elucid.training.preconds.base import Coefficients
from elucid.training.types import Cond, NetSpec, Prediction


class DenoiserWrapper(nn.Module):
    """A denoiser that wraps another one and delegates everything to it. Wrappers can be nested.

    Subclasses override `forward` and whatever else they change.
    """

    def __init__(self, denoiser: nn.Module):
        super().__init__()
        self.denoiser = denoiser

    @property
    def spec(self) -> NetSpec:
        return self.denoiser.spec

    @property
    def model(self) -> nn.Module:
        return self.denoiser.model

    @property
    def precision(self) -> str:
        return self.denoiser.precision

    @property
    def sigma_min(self) -> float:
        return self.denoiser.sigma_min

    @property
    def sigma_max(self) -> float:
        return self.denoiser.sigma_max

    @property
    def process(self) -> Process:
        return self.denoiser.process

    @property
    def levels(self) -> Tensor | None:
        return self.denoiser.levels

    @property
    def starts_from_noise(self) -> bool:
        return self.denoiser.starts_from_noise

    @property
    def default_loss(self) -> str | None:
        return self.denoiser.default_loss

    @property
    def variance(self) -> str:
        return self.denoiser.variance

    @property
    def clips(self) -> bool:
        return self.denoiser.clips

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return self.denoiser.coefficients(sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return self.denoiser.round_sigma(sigma)

    def condition(self, x: Tensor, cond: Cond | None) -> Cond:
        return self.denoiser.condition(x, cond)

    def after_step(self, step) -> None:
        self.denoiser.after_step(step)

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        return self.denoiser(x, sigma, cond)


class BoundDenoiser(DenoiserWrapper):
    """A denoiser with fixed conditions, in the form that samplers call: denoise(x, sigma) -> Prediction.

    x0 is returned in the dtype of x, which samplers keep in higher precision.
    """

    def __init__(self, denoiser: nn.Module, cond: Cond | None = None):
        super().__init__(denoiser)
        self.cond = cond or {}

    def forward(self, x: Tensor, sigma: Tensor, cond: Cond | None = None) -> Prediction:
        out = self.denoiser(x, torch.as_tensor(sigma).reshape(-1), {**self.cond, **(cond or {})})
        return dataclasses.replace(out, x0=out.x0.to(x.dtype))
