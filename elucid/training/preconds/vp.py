"""The variance-preserving preconditioner."""

import torch
from torch import Tensor

from elucid.training.noise.processes import BETA_D, BETA_MIN, EPSILON_T, VPProcess
from elucid.training.preconds.base import Coefficients, Denoiser


class VPPrecond(Denoiser):
    """Variance preserving (Song et al. 2021): c_skip 1, c_out -sigma, c_in 1/sqrt(sigma^2+1), c_noise (M-1) t(sigma).

    sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1); sigma from sigma(epsilon_t) to sigma(1).
    """

    uses_all_parameters = True

    default_loss = "vp"

    def __init__(
        self,
        model,
        spec,
        precision="fp32",
        beta_d: float = BETA_D,
        beta_min: float = BETA_MIN,
        M: int = 1000,
        epsilon_t: float = EPSILON_T,
    ):
        super().__init__(model, spec, precision)
        self.M = M
        self.process = VPProcess(beta_d, beta_min, epsilon_t)
        self.sigma_min = float(self.process.sigma(torch.tensor(epsilon_t)))
        self.sigma_max = float(self.process.sigma(torch.tensor(1.0)))

    def coefficients(self, sigma: Tensor) -> Coefficients:
        c_noise = (self.M - 1) * self.process.time(sigma)
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise)
