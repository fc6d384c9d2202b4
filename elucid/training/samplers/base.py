"""What samplers share: the denoiser they call, their range of noise levels, their number type.

A sampler has two calls. `sampler.sigmas(denoise)` chooses the noise levels, `sampler(denoise, x, sigmas, noise)` walks
them. Everything that changes what is denoised (labels, guidance, coordinates) is inside `denoise`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.schedules import SIGMA_RANGES, rho_levels
from elucid.training.types import Cond

Noise = Callable[[Tensor], Tensor]
"""Unit normal noise of the shape and type of its argument, e.g. `torch.randn_like`."""


class Denoise(Protocol):
    """What a sampler calls: denoise(x[B,C,H,W], sigma) -> x0 [B,C,H,W] of x's type; sigma broadcasts against x."""

    sigma_min: float
    sigma_max: float

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor: ...

    def round_sigma(self, sigma: Tensor) -> Tensor: ...


class BoundDenoiser:
    """A denoiser with its conditions filled in, in the form that samplers call (`Denoise`)."""

    def __init__(self, denoiser, cond: Cond | None = None):
        self.denoiser, self.cond = denoiser, cond
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.denoiser(x, sigma.reshape(-1), self.cond).x0.to(x.dtype)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return self.denoiser.round_sigma(sigma)


class Sampler(ABC):
    """Base: num_steps levels from sigma_max to sigma_min on EDM's grid, then 0.

    `sigma_min` and `sigma_max` default to 0.002 and 80 (`discretization` names the row of `SIGMA_RANGES`); the
    denoiser's own range limits both. Raises UserError for values that leave no range.
    """

    discretization = "edm"

    def __init__(self, num_steps: int, sigma_min: float | None, sigma_max: float | None, rho: float = 7.0):
        if num_steps < 1:
            raise UserError(f"num_steps={num_steps} must be at least 1 (--steps)")
        if rho <= 0:
            raise UserError(f"rho={rho} must be positive; 7 is usual (--rho)")
        if sigma_min is not None and sigma_min <= 0:
            raise UserError(f"sigma_min={sigma_min} must be positive (--sigma_min)")
        self.num_steps, self.sigma_min, self.sigma_max, self.rho = num_steps, sigma_min, sigma_max, rho

    def sigma_range(self, denoise: Denoise) -> tuple[float, float]:
        """First and last level above 0, as (sigma_min, sigma_max)."""
        low, high = SIGMA_RANGES[self.discretization]
        low = max(low if self.sigma_min is None else self.sigma_min, denoise.sigma_min)
        high = min(high if self.sigma_max is None else self.sigma_max, denoise.sigma_max)
        if low > high:
            raise UserError(
                f"no noise levels between sigma_min={low:g} and sigma_max={high:g}; change --sigma_min or --sigma_max"
            )
        return low, high

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        """Levels above 0 in falling order, float64 [num_steps]."""
        return rho_levels(self.num_steps, sigma_min, sigma_max, self.rho)

    def sigmas(self, denoise: Denoise) -> Tensor:
        """The levels to visit [num_steps + 1], each one that the denoiser knows; the last is 0."""
        levels = denoise.round_sigma(self.levels(*self.sigma_range(denoise)))
        return torch.cat([levels, levels.new_zeros(1)])

    @abstractmethod
    def __call__(self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
        """From x [B,C,H,W] at sigmas[0] to the sample at sigmas[-1]; sigmas fall, [N+1] or [N+1,B] (float64 state)."""


def state_dtype(device: torch.device) -> torch.dtype:
    """The number type in which a sampler keeps x: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def state_and_steps(x: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor, list[bool]]:
    """x in float64 where its device has it, sigmas shaped to broadcast against it, and which levels are 0."""
    dtype = state_dtype(x.device)
    is_zero = (sigmas == 0).reshape(len(sigmas), -1).any(1).tolist()
    return x.to(dtype), sigmas.to(x.device, dtype).reshape(len(sigmas), -1, 1, 1, 1), is_zero


class Churn:
    """Noise added before a step (Karras et al. 2022, algorithm 2, lines 4-6).

    gamma = min(S_churn/N, sqrt(2)-1) for levels in [S_min, S_max], else 0; sigma_hat = sigma (1 + gamma).
    """

    def __init__(self, S_churn: float = 0.0, S_min: float = 0.0, S_max: float = float("inf"), S_noise: float = 1.0):
        if S_churn < 0:
            raise UserError(f"S_churn={S_churn} must not be negative (--S_churn)")
        self.S_churn, self.S_min, self.S_max, self.S_noise = S_churn, S_min, S_max, S_noise

    def raised(self, denoise: Denoise, sigma: Tensor, num_steps: int) -> Tensor:
        """The level after adding noise."""
        if self.S_churn == 0:
            return sigma
        gamma = min(self.S_churn / num_steps, 2**0.5 - 1)
        inside = (sigma >= self.S_min) & (sigma <= self.S_max)
        return torch.where(inside, denoise.round_sigma(sigma * (1 + gamma)), sigma)

    def added(self, x: Tensor, sigma: Tensor, sigma_hat: Tensor, noise: Noise) -> Tensor:
        """The noise that lifts x from sigma to sigma_hat; drawn in every step, so that S_min and S_max move no draw."""
        if self.S_churn == 0:
            return torch.zeros_like(x)
        return (sigma_hat**2 - sigma**2).clamp_min(0).sqrt() * self.S_noise * noise(x)
