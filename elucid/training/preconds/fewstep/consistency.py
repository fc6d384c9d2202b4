"""The preconditioner of consistency models, whose boundary lies at the least noise level."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Coefficients
from elucid.training.preconds.edm import EDMPrecond

BOUNDARIES = ("always", "evaluation")


class ConsistencyPrecond(EDMPrecond):
    """EDM's with D(x; sigma_min) = x: c_skip = s^2 / ((sigma - sigma_min)^2 + s^2), s = sigma_data,
    c_out = (sigma - sigma_min) s / sqrt(sigma^2 + s^2) (Song et al. 2023, arXiv 2303.01469, appendix C).

    c_noise = `time_scale` ln(sigma) / 4; CM's own networks take 1000. With `boundary` "evaluation" it is EDM's while
    training, as in ECT's program.
    """

    uses_all_parameters = True
    default_loss = "ct"

    def __init__(
        self,
        model,
        spec,
        precision="fp32",
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = float("inf"),
        boundary: str = "always",
        time_scale: float = 1.0,
    ):
        super().__init__(model, spec, precision, sigma_data, sigma_min, sigma_max)
        if boundary not in BOUNDARIES:
            raise UserError(f"precond.boundary={boundary!r} is unknown; choose from {', '.join(BOUNDARIES)}")
        self.boundary, self.time_scale = boundary, time_scale

    def coefficients(self, sigma: Tensor) -> Coefficients:
        c = super().coefficients(sigma)
        c = c._replace(c_noise=self.time_scale * c.c_noise)
        if self.boundary == "evaluation" and self.training:
            return c
        above = (sigma - self.sigma_min).clamp_min(0)
        scale = self.sigma_data / torch.sqrt(sigma**2 + self.sigma_data**2)
        return c._replace(c_skip=self.sigma_data**2 / (above**2 + self.sigma_data**2), c_out=above * scale)
