"""The variance-exploding preconditioner."""

import torch
from torch import Tensor

from elucid.training.preconds.base import Coefficients, Denoiser


class VEPrecond(Denoiser):
    """Variance exploding (Song et al. 2021): c_skip 1, c_out sigma, c_in 1, c_noise ln(sigma / 2)."""

    def __init__(self, model, spec, precision="fp32", sigma_min: float = 0.02, sigma_max: float = 100.0):
        super().__init__(model, spec, precision)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return one, sigma, one, (0.5 * sigma).log()
