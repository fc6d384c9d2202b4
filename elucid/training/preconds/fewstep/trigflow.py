"""The preconditioner of TrigFlow."""

from torch import Tensor

from elucid.training.preconds.base import Coefficients
from elucid.training.preconds.edm import EDMPrecond


class TrigFlowPrecond(EDMPrecond):
    """D = cos^2(t) x - s sin(t) F(cos(t) x / s; t), s = sigma_data, t = arctan(sigma / s) in [0, pi/2).

    Lu & Song 2024 (arXiv 2410.11081), eq. 5, for x = x_t / cos t: EDM's coefficients with the other sign of F, and
    c_noise = t, which is bounded and smooth. Any sigma >= 0. Weights of EDM's preconditioner mean another thing here.
    """

    uses_all_parameters = True

    def coefficients(self, sigma: Tensor) -> Coefficients:
        c = super().coefficients(sigma)
        return Coefficients(c.c_skip, -c.c_out, c.c_in, (sigma / self.sigma_data).atan())
