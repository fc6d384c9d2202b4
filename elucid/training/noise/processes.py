"""Noise processes sigma(t) of the literature and their constants (Karras et al. 2022, table 1).

A denoiser has the process it was designed for; noise distributions, schedules and samplers read it from there.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError

BETA_D, BETA_MIN, EPSILON_T = 19.9, 0.1, 1e-5
"""The variance-preserving process of Song et al. 2021 in the notation of Karras et al. 2022."""

VE_SIGMA_MIN, VE_SIGMA_MAX = 0.02, 100.0
"""Range of sigma of the variance-exploding process of Song et al. 2021."""

EPSILON_S = 1e-3  # smallest t of variance-preserving sampling


class Process(ABC):
    """An increasing function sigma(t) with its derivative and inverse, elementwise on tensors."""

    @classmethod
    @abstractmethod
    def through(cls, sigma_min: float, sigma_max: float) -> "Process":
        """Return the process of this type that passes through both ends."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def derivative(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """Return the t with sigma(t) = sigma."""


class VPProcess(Process):
    """Variance preserving: sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1), t from epsilon_t to 1."""

    def __init__(self, beta_d: float = BETA_D, beta_min: float = BETA_MIN, epsilon_t: float = EPSILON_T):
        if not (beta_d > 0 and beta_min >= 0 and 0 < epsilon_t < 1):
            raise UserError(
                f"beta_d={beta_d}, beta_min={beta_min}, epsilon_t={epsilon_t}: need beta_d > 0, beta_min >= 0 and "
                "epsilon_t between 0 and 1; published: 19.9, 0.1, 1e-5"
            )
        self._set(beta_d, beta_min, epsilon_t)

    def _set(self, beta_d: float, beta_min: float, epsilon_t: float) -> None:
        self.beta_d, self.beta_min, self.epsilon_t = beta_d, beta_min, epsilon_t

    @classmethod
    def through(cls, sigma_min: float, sigma_max: float) -> "VPProcess":
        """Return the process with sigma(epsilon_s) = sigma_min and sigma(1) = sigma_max; beta_min may be negative."""
        low, high = math.log1p(sigma_min**2) / EPSILON_S, math.log1p(sigma_max**2)
        beta_d = 2 * (high - low) / (1 - EPSILON_S)
        process = cls()
        process._set(beta_d, high - beta_d / 2, EPSILON_S)
        return process

    def sigma(self, t: Tensor) -> Tensor:
        exponent = 0.5 * self.beta_d * t**2 + self.beta_min * t
        # In float32 as published: the smallest noise levels differ from the exact ones by up to 1 %.
        return (torch.expm1(exponent) if exponent.dtype == torch.float64 else exponent.exp().sub(1)).sqrt()

    def derivative(self, t: Tensor) -> Tensor:
        sigma = self.sigma(t)
        return 0.5 * (self.beta_d * t + self.beta_min) * (sigma + 1 / sigma)

    def time(self, sigma: Tensor) -> Tensor:
        """Return the t with sigma(t) = sigma; 0 for sigma = 0, even if beta_min is negative."""
        log = torch.log1p(sigma**2) if sigma.dtype == torch.float64 else (1 + sigma**2).log()
        t = ((self.beta_min**2 + 2 * self.beta_d * log).sqrt() - self.beta_min) / self.beta_d
        return torch.where(sigma > 0, t, 0.0)


class VEProcess(Process):
    """Variance exploding: sigma(t) = sqrt(t), levels from sigma_min to sigma_max."""

    def __init__(self, sigma_min: float = VE_SIGMA_MIN, sigma_max: float = VE_SIGMA_MAX):
        if not 0 < sigma_min <= sigma_max:
            raise UserError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: need 0 < sigma_min <= sigma_max")
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)

    @classmethod
    def through(cls, sigma_min: float, sigma_max: float) -> "VEProcess":
        return cls(sigma_min, sigma_max)

    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()

    def derivative(self, t: Tensor) -> Tensor:
        return 0.5 / t.sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        return sigma**2


class LinearProcess(Process):
    """EDM's choice: sigma(t) = t."""

    @classmethod
    def through(cls, sigma_min: float, sigma_max: float) -> "LinearProcess":
        return cls()

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, sigma: Tensor) -> Tensor:
        return sigma
