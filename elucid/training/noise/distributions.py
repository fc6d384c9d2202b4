"""Distributions of the noise level in training."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.processes import VEProcess, VPProcess


class NoiseDistribution(ABC):
    """Draws noise levels for training; parameters of the noise process are read from the denoiser."""

    def check(self, denoiser) -> None:  # noqa: B027 - most work with any denoiser
        """Raise UserError if this distribution does not work with the denoiser; called once when the run is built."""

    def setup(self, denoiser) -> None:  # noqa: B027
        """Create what depends on the denoiser; called once. State belongs in the buffers of an nn.Module."""

    @abstractmethod
    def sample(self, count: int, denoiser, device) -> Tensor:
        """Draw noise levels [count,1,1,1] on the device."""

    def importance(self, sigma: Tensor, denoiser) -> Tensor:
        """Return the factors of the loss at sigma, in its shape, that keep its expectation if draws are not uniform."""
        return torch.ones_like(sigma)

    def observe(self, sigma: Tensor, loss: Tensor, denoiser) -> None:  # noqa: B027
        """Take note of the loss [B] at sigma [B,1,1,1], without the factors of `importance`."""

    def after_step(self) -> None:  # noqa: B027
        """Called on all processes after each optimizer step."""


class LogNormal(NoiseDistribution):
    """ln sigma ~ N(P_mean, P_std^2), EDM's distribution (Karras et al. 2022, table 1)."""

    def __init__(self, P_mean: float = -1.2, P_std: float = 1.2):
        if P_std < 0:
            raise UserError(f"P_std={P_std} must not be negative; EDM uses 1.2")
        self.P_mean, self.P_std = P_mean, P_std

    def sample(self, count: int, denoiser, device) -> Tensor:
        return (torch.randn(count, 1, 1, 1, device=device) * self.P_std + self.P_mean).exp()


class VPUniform(NoiseDistribution):
    """sigma(t) of the variance-preserving process at t ~ U(epsilon_t, 1) (Karras et al. 2022, table 1).

    The defaults are those of the denoiser's process if it is a VPProcess, else the published ones.
    """

    def __init__(self, beta_d: float | None = None, beta_min: float | None = None, epsilon_t: float | None = None):
        given = {"beta_d": beta_d, "beta_min": beta_min, "epsilon_t": epsilon_t}
        self.given = {name: value for name, value in given.items() if value is not None}
        VPProcess(**self.given)

    def process(self, denoiser) -> VPProcess:
        """Return the process whose noise levels are drawn."""
        own = denoiser.process if isinstance(denoiser.process, VPProcess) else VPProcess()
        return VPProcess(**{name: getattr(own, name) for name in ("beta_d", "beta_min", "epsilon_t")} | self.given)

    def sample(self, count: int, denoiser, device) -> Tensor:
        process = self.process(denoiser)
        t = 1 + torch.rand(count, 1, 1, 1, device=device) * (process.epsilon_t - 1)
        return process.sigma(t)


class LogUniform(NoiseDistribution):
    """ln sigma ~ U(ln sigma_min, ln sigma_max), VE's distribution (Karras et al. 2022, table 1).

    The defaults are those of the denoiser's process if it is a VEProcess, else the published 0.02 and 100.
    """

    def __init__(self, sigma_min: float | None = None, sigma_max: float | None = None):
        given = {"sigma_min": sigma_min, "sigma_max": sigma_max}
        self.given = {name: value for name, value in given.items() if value is not None}
        VEProcess(**self.given)

    def sample(self, count: int, denoiser, device) -> Tensor:
        own = denoiser.process if isinstance(denoiser.process, VEProcess) else VEProcess()
        ends = VEProcess(**{"sigma_min": own.sigma_min, "sigma_max": own.sigma_max} | self.given)
        uniform = torch.rand(count, 1, 1, 1, device=device)
        return ends.sigma_min * (uniform * math.log(ends.sigma_max / ends.sigma_min)).exp()


class DiscreteLevels(NoiseDistribution):
    """sigma = u_j, j uniform over the denoiser's discrete levels, as in iDDPM (Karras et al. 2022, table 1)."""

    _copied: tuple[Tensor, Tensor] | None = None

    def check(self, denoiser) -> None:
        if denoiser.levels is None:
            kind = type(denoiser).__name__
            raise UserError(f"the loss needs discrete noise levels, {kind} has none; use `precond`=iddpm or ddpm")

    def sample(self, count: int, denoiser, device) -> Tensor:
        levels = self.levels_on(device, denoiser)
        return levels[torch.randint(len(levels), (count, 1, 1, 1), device=device)]

    def levels_on(self, device, denoiser) -> Tensor:
        """Return the denoiser's levels on the device; those it has on the host are copied once."""
        levels = denoiser.levels
        if levels.device == torch.device(device):
            return levels
        if self._copied is None or self._copied[0] is not levels or self._copied[1].device != torch.device(device):
            self._copied = levels, levels.to(device)
        return self._copied[1]
