"""Distributions of the time t of flow matching in training, 0 for data and 1 for noise.

They are drawn on the denoiser's path, the linear one if it has none, so that they serve any denoiser.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.noise.paths import path_of

EDGE = 1e-5
"""Least distance from the ends t = 0 and t = 1, where sigma or a weight is infinite; a denoiser may have its own."""


def shifted(t: Tensor, shift: float) -> Tensor:
    """Return t' = s t / (1 + (s - 1) t), which multiplies sigma by s on the linear path (Esser et al. 2024, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def require_shift(shift: float) -> float:
    """Return the shift. Raises UserError unless it is above 0."""
    if not 0 < shift < math.inf:
        raise UserError(f"shift={shift:g} must be above 0: the factor of sigma; 1 for none")
    return shift


class TimeDistribution(NoiseDistribution):
    """Base class: t is drawn, `shift` moves it towards noise (above 1) or data, and sigma(t) is the noise level."""

    def __init__(self, shift: float = 1.0):
        self.shift = require_shift(shift)

    @abstractmethod
    def times(self, count: int, device) -> Tensor:
        """Draw t [count,1,1,1] on the device."""

    def sample(self, count: int, denoiser, device) -> Tensor:
        edge = getattr(denoiser, "edge", EDGE)
        t = shifted(self.times(count, device), self.shift).clamp(edge, 1 - edge)
        return path_of(denoiser).sigma(t)


class UniformTime(TimeDistribution):
    """t ~ U(low, high). Raises UserError unless 0 <= low < high <= 1."""

    def __init__(self, low: float = 0.0, high: float = 1.0, shift: float = 1.0):
        super().__init__(shift)
        if not 0 <= low < high <= 1:
            raise UserError(f"times from low={low:g} to high={high:g}: need 0 <= low < high <= 1")
        self.low, self.high = low, high

    def times(self, count: int, device) -> Tensor:
        return self.low + (self.high - self.low) * torch.rand(count, 1, 1, 1, device=device)


class LogitNormalTime(TimeDistribution):
    """t = 1 / (1 + exp(-z)), z ~ N(P_mean, P_std^2) (Esser et al. 2024): on the linear path ln sigma = z.

    P_mean above 0 prefers noise. SD3 and LightningDiT use N(0, 1), JiT N(0.8, 0.8^2).
    """

    def __init__(self, P_mean: float = 0.0, P_std: float = 1.0, shift: float = 1.0):
        super().__init__(shift)
        if P_std < 0:
            raise UserError(f"P_std={P_std} must not be negative")
        self.P_mean, self.P_std = P_mean, P_std

    def times(self, count: int, device) -> Tensor:
        return (torch.randn(count, 1, 1, 1, device=device) * self.P_std + self.P_mean).sigmoid()
