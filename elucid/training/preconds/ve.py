"""The variance-exploding preconditioner."""

import torch
from torch import Tensor

from elucid.training.noise.processes import VE_SIGMA_MAX, VE_SIGMA_MIN, VEProcess
from elucid.training.preconds.base import Coefficients, Denoiser


class VEPrecond(Denoiser):
    """Variance exploding (Song et al. 2021): c_skip 1, c_out sigma, c_in 1, c_noise ln(sigma / 2)."""

    uses_all_parameters = True

    default_loss = "ve"

    def __init__(self, model, spec, precision="fp32", sigma_min: float = VE_SIGMA_MIN, sigma_max: float = VE_SIGMA_MAX):
        super().__init__(model, spec, precision)
        self.process = VEProcess(sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = self.process.sigma_min, self.process.sigma_max

    def coefficients(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, (0.5 * sigma).log())
