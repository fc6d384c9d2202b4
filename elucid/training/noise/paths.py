"""Paths of flow matching, x_t = a(t) x0 + b(t) n, from data at t = 0 to unit noise at t = 1.

x_t / a(t) is an image with noise of standard deviation sigma(t) = b / a, so every path is a noise process with a scale
(Karras et al. 2022, eq. 2); the literature's t is this one or 1 - t.
"""

import math
import re
from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.processes import Process, VPProcess

PURE_NOISE = 1e8
"""The noise level that stands for infinity, pure noise: in float32 nothing of an image is left beside it."""


class Path(Process):
    """Base class: a(t) and b(t) with their derivatives, elementwise on tensors of t in [0, 1].

    With `noise_scale` c the noise is c n (Li & He 2025, arXiv 2511.13720): sigma(t) = c b / a, and c n at t = 1. Raises
    UserError unless c is above 0. `exponent` is the p with a^p + b^p = 1.
    """

    exponent: int

    def __init__(self, noise_scale: float = 1.0):
        if not 0 < noise_scale < math.inf:
            raise UserError(f"noise_scale={noise_scale:g} must be above 0; JiT uses the image size / 256")
        self.noise_scale = noise_scale

    @classmethod
    def through(cls, sigma_min: float, sigma_max: float) -> "Path":
        return cls()

    @abstractmethod
    def a(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def b(self, t: Tensor) -> Tensor:
        """Return the scale of the noise, without `noise_scale`."""

    @abstractmethod
    def a_slope(self, t: Tensor) -> Tensor:
        """Return da/dt."""

    @abstractmethod
    def b_slope(self, t: Tensor) -> Tensor:
        """Return db/dt."""

    @abstractmethod
    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        """Return the t with b / a = ratio."""

    def sigma(self, t: Tensor) -> Tensor:
        """Return c b / a, at most `PURE_NOISE`."""
        return (self.noise_scale * self.b(t) / self.a(t)).clamp(max=PURE_NOISE)

    def derivative(self, t: Tensor) -> Tensor:
        return self.noise_scale * self.wronskian(t) / self.a(t) ** 2

    def time(self, sigma: Tensor) -> Tensor:
        return self.time_of_ratio(sigma / self.noise_scale)

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b at a noise level, as exact in float32 as it is close to pure noise, where t is not."""
        ratio = sigma / self.noise_scale
        a = 1 / (1 + ratio) if self.exponent == 1 else (1 + ratio**2).rsqrt()
        return a, ratio * a

    def of_velocity(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return a b' / W and b / W at a noise level, finite at both ends: x0 = (a b' x - b v) / W for x = x_t / a."""
        a, _ = self.scales(sigma)
        return a**self.exponent, self.noise_per_rate(sigma)

    def noise_per_rate(self, sigma: Tensor) -> Tensor:
        """Return b / W at a noise level."""
        _, b = self.scales(sigma)
        return b / self.wronskian(self.time(sigma))

    def wronskian(self, t: Tensor) -> Tensor:
        """Return a b' - a' b: the velocity v = a' x0 + b' n gives x0 = (b' x_t - b v) / (a b' - a' b)."""
        return self.a(t) * self.b_slope(t) - self.a_slope(t) * self.b(t)

    @cached_property
    def sigma_end(self) -> float:
        """The noise level at t = 1."""
        return float(self.sigma(torch.ones((), dtype=torch.float64)))


class LinearPath(Path):
    """a = 1 - t, b = t (Lipman et al. 2023, Liu et al. 2023): sigma = t / (1 - t)."""

    exponent = 1

    def a(self, t: Tensor) -> Tensor:
        return 1 - t

    def b(self, t: Tensor) -> Tensor:
        return t

    def a_slope(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def b_slope(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def wronskian(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return ratio / (1 + ratio)


class CosinePath(Path):
    """a = cos(pi t / 2), b = sin(pi t / 2), "GVP" in SiT (Ma et al. 2024): sigma = tan(pi t / 2).

    Up to a factor 2 / pi its velocity is what EDM's network predicts at sigma_data = 1.
    """

    exponent = 2

    def a(self, t: Tensor) -> Tensor:
        return (t * (math.pi / 2)).cos()

    def b(self, t: Tensor) -> Tensor:
        return (t * (math.pi / 2)).sin()

    def a_slope(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.b(t)

    def b_slope(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.a(t)

    def wronskian(self, t: Tensor) -> Tensor:
        return torch.full_like(t, math.pi / 2)

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return ratio.atan() * (2 / math.pi)


class VPPath(Path):
    """a = exp(-beta_d t^2 / 4 - beta_min t / 2), b = sqrt(1 - a^2) (Song et al. 2021); some image is left at t = 1."""

    exponent = 2

    process = VPProcess()

    def _log_a(self, t: Tensor) -> Tensor:
        return -(0.25 * self.process.beta_d * t**2 + 0.5 * self.process.beta_min * t)

    def a(self, t: Tensor) -> Tensor:
        return self._log_a(t).exp()

    def b(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_a(t))).sqrt()

    def a_slope(self, t: Tensor) -> Tensor:
        return -0.5 * (self.process.beta_d * t + self.process.beta_min) * self.a(t)

    def b_slope(self, t: Tensor) -> Tensor:
        return -self.a(t) * self.a_slope(t) / self.b(t)

    def noise_per_rate(self, sigma: Tensor) -> Tensor:
        a, b = self.scales(sigma)
        t = self.time(sigma)
        return 2 * b**2 / (a * (self.process.beta_d * t + self.process.beta_min))

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return self.process.time(ratio)


class PolynomialPath(Path):
    """a = (1 - t)^n, b = 1 - a, for n = `power`; n = 1 is the linear path. Raises UserError for n below 1."""

    exponent = 1

    def __init__(self, noise_scale: float = 1.0, power: float = 2.0):
        super().__init__(noise_scale)
        if not 1 <= power < math.inf:
            raise UserError(f"power={power:g} of the polynomial path must be 1 or more")
        self.power = power

    def a(self, t: Tensor) -> Tensor:
        return (1 - t) ** self.power

    def b(self, t: Tensor) -> Tensor:
        return 1 - self.a(t)

    def a_slope(self, t: Tensor) -> Tensor:
        return -self.power * (1 - t) ** (self.power - 1)

    def b_slope(self, t: Tensor) -> Tensor:
        return -self.a_slope(t)

    def noise_per_rate(self, sigma: Tensor) -> Tensor:
        a, b = self.scales(sigma)
        return b / (self.power * a ** (1 - 1 / self.power))

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return 1 - (1 + ratio) ** (-1 / self.power)


class LinearVPPath(Path):
    """a = 1 - t, b = sqrt(1 - a^2)."""

    exponent = 2

    def a(self, t: Tensor) -> Tensor:
        return 1 - t

    def b(self, t: Tensor) -> Tensor:
        return (t * (2 - t)).sqrt()

    def a_slope(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def b_slope(self, t: Tensor) -> Tensor:
        return (1 - t) / self.b(t)

    def noise_per_rate(self, sigma: Tensor) -> Tensor:
        _, b = self.scales(sigma)
        return b**2

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return 1 - (1 + ratio**2).rsqrt()


PATHS = {"linear": LinearPath, "cosine": CosinePath, "gvp": CosinePath, "vp": VPPath, "linear_vp": LinearVPPath}
"""Paths by name; "polynomial2" is the polynomial one with power 2, and likewise for other numbers."""


def make_path(name: str, noise_scale: float = 1.0) -> Path:
    """Return the path of a name. Raises UserError for an unknown one."""
    power = re.fullmatch(r"polynomial(\d+\.?\d*)", name)
    if power is not None:
        return PolynomialPath(noise_scale, float(power[1]))
    if name not in PATHS:
        raise UserError(f"path={name!r} is unknown; choose from {', '.join(PATHS)}, polynomial2 and other powers")
    return PATHS[name](noise_scale)


_LINEAR = LinearPath()


def path_of(denoiser) -> Path:
    """Return the path that a denoiser was designed for, the linear one if it is none of flow matching."""
    process = getattr(denoiser, "process", None)
    return process if isinstance(process, Path) else _LINEAR
