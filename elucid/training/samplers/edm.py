"""EDM's sampler: Heun's method in sigma, optionally stochastic (Karras et al. 2022, algorithm 2)."""

import torch
from torch import Tensor

from elucid.training.samplers.base import Callback, Denoise, Noise, Sampler, estimate, state_and_steps
from elucid.training.samplers.churn import Churn


class EDMSampler(Sampler):
    """dx/dsigma = (x - D(x; sigma)) / sigma by Heun's second-order method, with an Euler step to 0; 2N - 1 evaluations.

    `S_churn` > 0 adds noise, scaled by `S_noise`, before each step with sigma in [S_min, S_max].
    """

    order = 2
    dtype: torch.dtype | None = None
    """Type of x and the noise levels; None: float64 where the device has it."""

    def __init__(self, S_churn: float = 0.0, S_min: float = 0.0, S_max: float | None = None, S_noise: float = 1.0):
        self.churn = Churn(S_churn, S_min, S_max, S_noise)

    def evaluations(self, num_steps: int) -> int:
        return 2 * num_steps - 1

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas, self.dtype)
        num_steps = len(sigmas) - 1
        for i in range(num_steps):
            sigma, sigma_next = sigmas[i], sigmas[i + 1]
            sigma_hat = self.churn.raised_sigma(denoise, sigma, num_steps)
            x_hat = x + self.churn.noise_to_add(x, sigma, sigma_hat, noise)
            slope = (x_hat - estimate(denoise, x_hat, sigma_hat, callback)) / sigma_hat
            x = x_hat + (sigma_next - sigma_hat) * slope
            if not is_zero[i + 1]:
                slope_next = (x - denoise(x, sigma_next).x0) / sigma_next
                x = x_hat + (sigma_next - sigma_hat) * (slope + slope_next) / 2
        return x
