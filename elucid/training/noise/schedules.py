"""The noise levels that a sampler visits (Karras et al. 2022, table 1), and the curves sigma(t) that it can follow.

A discretization chooses num_steps levels from sigma_max down to sigma_min; a sampler adds the final 0. A curve and a
scaling choose the differential equation that connects them, which matters only to `samplers/ablation.py`.
"""

import math

import torch
from torch import Tensor

from elucid.training.preconds.iddpm import iddpm_levels

EPSILON_S = 1e-3  # where the variance-preserving time steps end


def ramp(num_steps: int, device=None) -> Tensor:
    """0 to 1 in num_steps even steps, float64 [N]; a single step stands at 0."""
    return torch.arange(num_steps, dtype=torch.float64, device=device) / max(num_steps - 1, 1)


def rho_levels(num_steps: int, sigma_min, sigma_max, rho: float = 7.0, device=None) -> Tensor:
    """EDM's levels (eq. 5): sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho.

    The two ends are numbers -> [N], or tensors [B] -> [N,B], one path for each sample.
    """
    first = torch.as_tensor(sigma_max, dtype=torch.float64, device=device) ** (1 / rho)
    last = torch.as_tensor(sigma_min, dtype=torch.float64, device=device) ** (1 / rho)
    fraction = ramp(num_steps, first.device).reshape(-1, *[1] * first.ndim)
    return (first + fraction * (last - first)) ** rho


def vp_levels(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Even steps of t from 1 to epsilon_s on the variance-preserving curve through sigma_max and sigma_min [N]."""
    return VPCurve.through(sigma_min, sigma_max).sigma(1 + ramp(num_steps) * (EPSILON_S - 1))


def ve_levels(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """A geometric sequence from sigma_max to sigma_min [N]."""
    return sigma_max * (sigma_min / sigma_max) ** ramp(num_steps)


def discrete_levels(num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly chosen among iDDPM's 1000 levels u_j that lie between the two ends [N]."""
    levels = iddpm_levels(M=1000, C_1=0.001, C_2=0.008, dtype=torch.float64)
    levels = levels[(levels >= sigma_min) & (levels <= sigma_max)]
    return levels[((len(levels) - 1) * ramp(num_steps)).round().long()]


class VPCurve:
    """Variance preserving: sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1)."""

    def __init__(self, beta_d: float = 19.9, beta_min: float = 0.1):
        self.beta_d, self.beta_min = beta_d, beta_min

    @classmethod
    def through(cls, sigma_min: float, sigma_max: float) -> "VPCurve":
        """The curve with sigma(epsilon_s) = sigma_min and sigma(1) = sigma_max."""
        low, high = math.log1p(sigma_min**2) / EPSILON_S, math.log1p(sigma_max**2)
        beta_d = 2 * (high - low) / (1 - EPSILON_S)
        return cls(beta_d, high - beta_d / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t).sqrt()

    def derivative(self, t: Tensor) -> Tensor:
        sigma = self.sigma(t)
        return 0.5 * (self.beta_d * t + self.beta_min) * (sigma + 1 / sigma)

    def time(self, sigma: Tensor) -> Tensor:
        """The t at which the curve has this level; 0 at 0, also for a curve that dips below 0 just after it."""
        t = ((self.beta_min**2 + 2 * self.beta_d * torch.log1p(sigma**2)).sqrt() - self.beta_min) / self.beta_d
        return torch.where(sigma > 0, t, 0.0)


class VECurve:
    """Variance exploding: sigma(t) = sqrt(t)."""

    @classmethod
    def through(cls, sigma_min: float, sigma_max: float) -> "VECurve":
        return cls()

    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()

    def derivative(self, t: Tensor) -> Tensor:
        return 0.5 / t.sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        return sigma**2


class LinearCurve:
    """EDM's choice: sigma(t) = t."""

    @classmethod
    def through(cls, sigma_min: float, sigma_max: float) -> "LinearCurve":
        return cls()

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, sigma: Tensor) -> Tensor:
        return sigma


_VP = VPCurve()
DISCRETIZATIONS = {"vp": vp_levels, "ve": ve_levels, "iddpm": discrete_levels, "edm": rho_levels}
SIGMA_RANGES = {
    "vp": tuple(float(_VP.sigma(torch.tensor(t, dtype=torch.float64))) for t in (EPSILON_S, 1.0)),
    "ve": (0.02, 100.0),
    "iddpm": (0.002, 81.0),
    "edm": (0.002, 80.0),
}
CURVES = {"vp": VPCurve, "ve": VECurve, "linear": LinearCurve}
