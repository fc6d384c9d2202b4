"""The variance-preserving preconditioner."""

import torch
from torch import Tensor

from elucid.training.preconds.base import Coefficients, Denoiser


class VPPrecond(Denoiser):
    """Variance preserving (Song et al. 2021): c_skip 1, c_out -sigma, c_in 1/sqrt(sigma^2+1), c_noise (M-1) t(sigma).

    sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1); sigma from sigma(epsilon_t) to sigma(1).
    """

    def __init__(
        self,
        model,
        spec,
        precision="fp32",
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
    ):
        super().__init__(model, spec, precision)
        self.beta_d, self.beta_min, self.M, self.epsilon_t = beta_d, beta_min, M, epsilon_t
        self.sigma_min = float(self.sigma(torch.tensor(epsilon_t)))
        self.sigma_max = float(self.sigma(torch.tensor(1.0)))

    def sigma(self, t: Tensor) -> Tensor:
        return (0.5 * self.beta_d * t**2 + self.beta_min * t).exp().sub(1).sqrt()

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        root = (self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt()
        return (root - self.beta_min) / self.beta_d

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * self.sigma_inv(sigma)
