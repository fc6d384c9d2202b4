"""Base class of guidance, which pushes a prediction away from a weaker one. Guidances can be nested."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.paths import path_of
from elucid.training.preconds.base import as_levels
from elucid.training.preconds.wrapper import DenoiserWrapper
from elucid.training.types import Cond, Prediction

ROUNDING = 1 + 1e-6
"""Levels that are as close to an end of an interval are taken to be it."""


class Interval:
    """Noise levels in (lo, hi] with guidance (Kynkäänniemi et al. 2024, arXiv 2404.07724); None means all.

    Raises UserError unless lo < hi.
    """

    def __init__(self, ends: Sequence[float] | None):
        ends = (0.0, math.inf) if ends is None else tuple(ends)
        if len(ends) != 2 or not 0 <= ends[0] < ends[1]:
            raise UserError(f"`guidance_interval`={','.join(f'{value:g}' for value in ends)} must be LO,HI, LO < HI")
        self.lo, self.hi = ends

    def contains(self, sigma: Tensor) -> Tensor:
        """Return whether each sigma is inside, bool in its shape."""
        return (sigma > self.lo * ROUNDING) & (sigma <= self.hi * ROUNDING)


def levels_of_times(ends: Sequence[float], denoiser) -> tuple[float, float]:
    """Return the noise levels of two times of the denoiser's path, of the linear one if it has none. Raises UserError.

    t is 0 for data and 1 for pure noise; on the linear path sigma = t / (1 - t).
    """
    if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 1:
        given = ",".join(f"{value:g}" for value in ends)
        raise UserError(f"`guidance_interval_t`={given} must be LO,HI, two times from 0 (data) to 1 (noise)")
    low, high = path_of(denoiser).sigma(torch.tensor(tuple(ends), dtype=torch.float64)).tolist()
    return low, high


def require_scale(scale: float) -> float:
    """Return the scale. Raises UserError unless it is finite."""
    if not math.isfinite(scale):
        raise UserError(f"`guidance`={scale:g} must be a finite number; 1 means no guidance")
    return float(scale)


class Guidance(DenoiserWrapper):
    """Base class: D = D_weak + scale (D_main - D_weak) for sigma in (lo, hi], else D_main at no extra cost.

    Subclasses define the weaker prediction (`pair`). `interval` is (lo, hi), see `Interval`. `channels` guides
    the first ones only, as the published figures of DiT and its descendants do by accident: 3 of 4, or of 32. Raises
    UserError unless lo < hi and the scale is finite.
    """

    def __init__(
        self,
        denoiser,
        scale: float = 1.0,
        interval: list[float] | None = None,
        channels: int | None = None,
    ):
        super().__init__(denoiser)
        self.scale = require_scale(scale)
        if channels is not None and not 0 < channels <= denoiser.spec.image_channels:
            raise UserError(f"guidance.channels={channels} must be from 1 to {denoiser.spec.image_channels}")
        self.interval, self.channels = Interval(interval), channels

    def pair(self, x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Prediction, Tensor]:
        """Return the main prediction and x0 of the weaker one."""
        raise NotImplementedError(f"{type(self).__name__} must define pair(x, sigma, cond)")

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        cond = cond or {}
        sigma = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
        inside = self.interval.contains(sigma)  # samplers have sigma on the host, which then asks no device
        if self.scale == 1 or not bool(inside.any()):
            return self.denoiser(x, sigma, cond)
        main, weak = self.pair(x, sigma, cond)
        inside = as_levels(inside, x, torch.bool)
        guided = weak + self.scale * (main.x0 - weak)
        if self.channels is not None:
            guided = torch.cat([guided[:, : self.channels], main.x0[:, self.channels :]], dim=1)
        gradient = main.guidance
        if gradient is not None:  # of classifier guidance inside; it is part of main.x0, which is scaled
            gradient = torch.where(inside, self.scale * gradient, gradient)
        return Prediction(torch.where(inside, guided, main.x0), main.var, main.logvar, gradient)
