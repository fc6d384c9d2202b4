"""Distributions of the noise level in training."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Denoiser


class LogNormal:
    """ln sigma ~ N(P_mean, P_std^2), EDM's distribution (Karras et al. 2022, table 1)."""

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2):
        self.P_mean, self.P_std = P_mean, P_std

    def sample(self, count: int, denoiser: Denoiser, device) -> Tensor:
        """Draws [count,1,1,1]."""
        return (torch.randn(count, 1, 1, 1, device=device) * self.P_std + self.P_mean).exp()


class VPUniform:
    """sigma(t) of the variance-preserving process at t ~ U(epsilon_t, 1) (Karras et al. 2022, table 1)."""

    def __init__(self, beta_d: float = 19.9, beta_min: float = 0.1, epsilon_t: float = 1e-5):
        self.beta_d, self.beta_min, self.epsilon_t = beta_d, beta_min, epsilon_t

    def sample(self, count: int, denoiser: Denoiser, device) -> Tensor:
        """Draws [count,1,1,1]."""
        t = 1 + torch.rand(count, 1, 1, 1, device=device) * (self.epsilon_t - 1)
        return (0.5 * self.beta_d * t**2 + self.beta_min * t).exp().sub(1).sqrt()


class LogUniform:
    """ln sigma ~ U(ln sigma_min, ln sigma_max), VE's distribution (Karras et al. 2022, table 1)."""

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100.0):
        if not 0 < sigma_min <= sigma_max:
            raise UserError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: need 0 < sigma_min <= sigma_max")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def sample(self, count: int, denoiser: Denoiser, device) -> Tensor:
        """Draws [count,1,1,1]."""
        uniform = torch.rand(count, 1, 1, 1, device=device)
        return self.sigma_min * (uniform * math.log(self.sigma_max / self.sigma_min)).exp()


class DenoiserLevels:
    """sigma = u_j, j uniform over the discrete levels of the denoiser, iDDPM's distribution (ibid., table 1)."""

    def sample(self, count: int, denoiser: Denoiser, device) -> Tensor:
        """Draws [count,1,1,1]."""
        levels = denoiser.u[: denoiser.M].to(device)
        return levels[torch.randint(len(levels), (count, 1, 1, 1), device=device)]
