"""Noise injection of EDM's stochastic sampler."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.samplers.base import Denoise, Noise


class Churn:
    """Adds noise before each step (Karras et al. 2022, algorithm 2, lines 4-6).

    sigma_hat = sigma (1 + gamma), gamma = min(S_churn/N, sqrt(2)-1) if sigma is in [S_min, S_max], else 0. `S_max` None
    means no upper limit.
    """

    def __init__(self, S_churn: float = 0.0, S_min: float = 0.0, S_max: float | None = None, S_noise: float = 1.0):
        if S_churn < 0:
            raise UserError(f"S_churn={S_churn} must not be negative (`S_churn`)")
        self.S_churn, self.S_min, self.S_noise = S_churn, S_min, S_noise
        self.S_max = math.inf if S_max is None else S_max

    def raised_sigma(self, denoise: Denoise, sigma: Tensor, num_steps: int) -> Tensor:
        """Return the noise level sigma_hat after adding noise."""
        if self.S_churn == 0:
            return sigma
        gamma = min(self.S_churn / num_steps, 2**0.5 - 1)
        inside = (sigma >= self.S_min) & (sigma <= self.S_max)
        return torch.where(inside, denoise.round_sigma(sigma * (1 + gamma)), sigma)

    def noise_to_add(self, x: Tensor, sigma: Tensor, sigma_hat: Tensor, noise: Noise) -> Tensor:
        """Return the noise that takes x from sigma to sigma_hat.

        It is drawn at every step, so that S_min and S_max do not shift the random numbers.
        """
        if self.S_churn == 0:
            return torch.zeros_like(x)
        return (sigma_hat**2 - sigma**2).clamp_min(0).sqrt() * self.S_noise * noise(x)
