"""Preconditioner of improved DDPM, with discrete noise levels."""

import torch
from torch import Tensor

from elucid.training.noise.discrete import iddpm_levels, nearest_level
from elucid.training.preconds.base import Coefficients, Denoiser
from elucid.training.types import NetSpec


class iDDPMPrecond(Denoiser):  # noqa: N801 - the field's spelling
    """Improved DDPM (Nichol & Dhariwal 2021): c_skip 1, c_out -sigma, c_in 1/sqrt(sigma^2+1), c_noise M-1-index.

    The M levels u_j of the cosine schedule, largest first, with u_M = 0 and
    u_(j-1) = sqrt((u_j^2 + 1) / max(abar_(j-1) / abar_j, C_1) - 1), abar_j = sin^2(pi/2 j / (M (C_2 + 1))).
    The network has 2C output channels; the second half is the variance.
    """

    uses_all_parameters = constant_buffers = True
    default_loss = "iddpm"

    def __init__(self, model, spec, precision="fp32", C_1: float = 0.001, C_2: float = 0.008, M: int = 1000):
        super().__init__(model, spec, precision)
        self.C_1, self.C_2, self.M = C_1, C_2, M
        self.host_levels = iddpm_levels(M, C_1, C_2)
        self.register_buffer("u", self.host_levels.clone(), persistent=False)
        self.sigma_min, self.sigma_max = float(self.u[M - 1]), float(self.u[0])

    @classmethod
    def adapt(cls, spec: NetSpec) -> NetSpec:
        return spec.replace(out_channels=2 * spec.image_channels)

    @property
    def levels(self) -> Tensor:
        return self.u[: self.M]

    def index(self, sigma: Tensor) -> Tensor:
        """Return the index of the nearest level, in the shape of sigma."""
        return nearest_level(self.u, sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma)
        levels = self.u if sigma.device == self.u.device else self.host_levels.to(sigma.device)
        return levels[nearest_level(levels, sigma)].to(sigma.dtype)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        c_noise = (self.M - 1 - self.index(sigma)).to(torch.float32)
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise)
