"""EDM's preconditioner."""

import math

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Coefficients, Denoiser


class EDMPrecond(Denoiser):
    """EDM (Karras et al. 2022): with s = sigma_data, c_skip = s^2/(sigma^2+s^2), c_out = sigma s/sqrt(sigma^2+s^2),
    c_in = 1/sqrt(sigma^2+s^2), c_noise = ln(sigma)/4. Any sigma > 0."""

    uses_all_parameters = True

    def __init__(
        self,
        model,
        spec,
        precision="fp32",
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
    ):
        super().__init__(model, spec, precision)
        if sigma_data <= 0:
            raise UserError(f"sigma_data={sigma_data} must be positive; EDM uses 0.5")
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, float(sigma_min), float(sigma_max)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            c_skip=self.sigma_data**2 / total,
            c_out=sigma * self.sigma_data / total.sqrt(),
            c_in=1 / total.sqrt(),
            c_noise=sigma.log() / 4,
        )
