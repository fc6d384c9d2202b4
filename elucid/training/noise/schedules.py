"""Noise level schedules for sampling (Karras et al. 2022, table 1).

`schedule(denoise, num_steps)` returns noise levels from sigma_max to sigma_min and a final 0, rounded to the levels of
the denoiser.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.discrete import betas, iddpm_levels, levels_of
from elucid.training.noise.processes import EPSILON_S, VE_SIGMA_MAX, VE_SIGMA_MIN, VPProcess
from elucid.training.noise.respacing import respaced


class Schedule(ABC):
    """Base class: `num_steps` noise levels between sigma_max and sigma_min, by default `default_range`.

    `num_steps` None leaves the number to the sampler. Both ends are clipped to the denoiser's range. Raises UserError
    if the range is empty.
    """

    default_range: tuple[float, float] = (0.002, 80.0)

    def __init__(self, num_steps: int | None = None, sigma_min: float | None = None, sigma_max: float | None = None):
        if num_steps is not None and num_steps < 1:
            raise UserError(f"num_steps={num_steps} must be at least 1 (`steps`)")
        if sigma_min is not None and sigma_min <= 0:
            raise UserError(f"sigma_min={sigma_min} must be positive (`sigma_min`)")
        self.num_steps, self.sigma_min, self.sigma_max = num_steps, sigma_min, sigma_max

    def sigma_range(self, denoise) -> tuple[float, float]:
        """Return (sigma_min, sigma_max) clipped to the denoiser's range."""
        low, high = self.default_range
        low = max(low if self.sigma_min is None else self.sigma_min, denoise.sigma_min)
        high = min(high if self.sigma_max is None else self.sigma_max, denoise.sigma_max)
        if low > high:
            raise UserError(
                f"no noise levels between sigma_min={low:g} and sigma_max={high:g}; change `sigma_min` or `sigma_max`"
            )
        return low, high

    @abstractmethod
    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        """Return the noise levels above 0 in decreasing order, float64 [num_steps]."""

    def __call__(self, denoise, num_steps: int = 18) -> Tensor:
        """Return noise levels [N + 1], the last of them 0; N is the schedule's own `num_steps`, else the argument."""
        levels = denoise.round_sigma(self.levels(self.num_steps or num_steps, *self.sigma_range(denoise)))
        return torch.cat([levels, levels.new_zeros(1)])


def ramp(num_steps: int, device=None) -> Tensor:
    """Return num_steps evenly spaced values from 0 to 1, float64 [N]; [0] for a single step."""
    return torch.arange(num_steps, dtype=torch.float64, device=device) / max(num_steps - 1, 1)


def rho_levels(num_steps: int, sigma_min, sigma_max, rho: float = 7.0, device=None) -> Tensor:
    """EDM's levels (eq. 5): sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho.

    The result is [N] for scalar ends, or [N,B] for tensors [B], one schedule per sample.
    """
    first = torch.as_tensor(sigma_max, dtype=torch.float64, device=device) ** (1 / rho)
    last = torch.as_tensor(sigma_min, dtype=torch.float64, device=device) ** (1 / rho)
    fraction = ramp(num_steps, first.device).reshape(-1, *[1] * first.ndim)
    return (first + fraction * (last - first)) ** rho


class Karras(Schedule):
    """EDM's levels, `rho_levels` (Karras et al. 2022, eq. 5)."""

    def __init__(
        self,
        num_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float = 7.0,
    ):
        super().__init__(num_steps, sigma_min, sigma_max)
        if rho <= 0:
            raise UserError(f"rho={rho} must be positive; EDM uses 7 (`rho`)")
        self.rho = rho

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        return rho_levels(num_steps, sigma_min, sigma_max, self.rho)


class Linear(Schedule):
    """Noise levels evenly spaced in sigma."""

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        return sigma_max + ramp(num_steps) * (sigma_min - sigma_max)


class Geometric(Schedule):
    """Geometric sequence from sigma_max to sigma_min, the variance-exploding schedule (Song et al. 2021)."""

    default_range = (VE_SIGMA_MIN, VE_SIGMA_MAX)

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        return sigma_max * (sigma_min / sigma_max) ** ramp(num_steps)


_VP = VPProcess()


class VPSteps(Schedule):
    """Variance-preserving schedule: t evenly spaced from 1 to epsilon_s, process through sigma_max and sigma_min."""

    default_range = tuple(float(_VP.sigma(torch.tensor(t, dtype=torch.float64))) for t in (EPSILON_S, 1.0))

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        return VPProcess.through(sigma_min, sigma_max).sigma(1 + ramp(num_steps) * (EPSILON_S - 1))


class IDDPMSteps(Schedule):
    """Evenly spaced choice of iDDPM's 1000 noise levels u_j within the range (Nichol & Dhariwal 2021)."""

    default_range = (0.002, 81.0)

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        levels = iddpm_levels(M=1000, C_1=0.001, C_2=0.008, dtype=torch.float64)
        levels = levels[(levels >= sigma_min) & (levels <= sigma_max)]
        return levels[((len(levels) - 1) * ramp(num_steps)).round().long()]


_LINEAR = levels_of(betas("linear", 1000))[:-1]


class Respaced(Schedule):
    """A selection of a discrete process's steps, `respacing` (Nichol & Dhariwal 2021): "250", "ddim25", "10,15,20", ...

    None selects `num_steps` evenly spaced ones. For a denoiser with discrete levels the process is its own, unless
    `beta_schedule` or `diffusion_steps` is given; for others it is the linear one of 1000 steps. Noise levels outside
    the range are left out.
    """

    default_range = (float(_LINEAR[-1]), float(_LINEAR[0]))

    def __init__(
        self,
        num_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        respacing: str | int | None = None,
        beta_schedule: str | None = None,
        diffusion_steps: int | None = None,
    ):
        super().__init__(num_steps, sigma_min, sigma_max)
        if num_steps is not None and respacing is not None:
            raise UserError(f"`steps`={num_steps} and `respacing`={respacing} contradict each other; give one of them")
        self.respacing = None if respacing is None else str(respacing)
        self.beta_schedule, self.diffusion_steps = beta_schedule, diffusion_steps
        if beta_schedule or diffusion_steps:
            self.given_levels()

    def given_levels(self) -> Tensor:
        """Return the levels of the process of the options, decreasing float64."""
        return levels_of(betas(self.beta_schedule or "linear", self.diffusion_steps or 1000))[:-1]

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        return self.select(self.given_levels(), num_steps, sigma_min, sigma_max)

    def select(self, levels: Tensor, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        """Return the selected ones of `levels` within the range."""
        # The denoiser's ends may be rounded to float32.
        levels = levels[(levels >= sigma_min * (1 - 1e-6)) & (levels <= sigma_max * (1 + 1e-6))]
        if not len(levels):
            raise UserError(
                f"no noise levels of the process lie between sigma_min={sigma_min:g} and sigma_max={sigma_max:g}; "
                "change `sigma_min` or `sigma_max`"
            )
        if self.num_steps and self.num_steps > len(levels):
            raise UserError(
                f"`steps`={num_steps} exceeds the {len(levels)} steps of the process; give at most {len(levels)}"
            )
        if self.respacing is None and num_steps == 1:
            return levels[:1]  # one step from the largest level, not from the smallest one
        kept = respaced(self.respacing or str(min(num_steps, len(levels))), len(levels))
        return levels.flip(0)[torch.tensor(kept)].flip(0)

    def __call__(self, denoise, num_steps: int = 250) -> Tensor:
        own = getattr(denoise, "levels", None)
        if own is None or self.beta_schedule or self.diffusion_steps:
            return super().__call__(denoise, num_steps)
        low, high = self.sigma_min or denoise.sigma_min, self.sigma_max or denoise.sigma_max
        levels = self.select(own.to("cpu", torch.float64), self.num_steps or num_steps, low, high)
        levels = denoise.round_sigma(levels)
        return torch.cat([levels, levels.new_zeros(1)])
