"""Chosen noise levels, at which models of one or a few steps are sampled."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.schedules import Schedule


class ChosenLevels(Schedule):
    """The first N of `levels`, largest first, for N steps: [80, 0.821] are those of ECT for one step and for two.

    They are clipped to the denoiser's range. Raises UserError for more steps than levels, and for levels that do not
    decrease.
    """

    default_range = (0.0, math.inf)

    def __init__(
        self,
        num_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        levels: list[float] = (80.0,),
    ):
        super().__init__(num_steps, sigma_min, sigma_max)
        self.chosen = [float(level) for level in levels]
        if not self.chosen or min(self.chosen) <= 0 or sorted(set(self.chosen), reverse=True) != self.chosen:
            raise UserError(f"schedule.levels={list(levels)} must be noise levels above 0, the largest first")
        if num_steps is not None:
            self.require(num_steps)

    def require(self, num_steps: int) -> None:
        """Raise UserError if there are fewer levels than steps."""
        if num_steps > len(self.chosen):
            there = ", ".join(f"{level:g}" for level in self.chosen)
            raise UserError(
                f"`steps`={num_steps}: the snapshot has levels for {len(self.chosen)} at most ({there}); give fewer, "
                "others with `set` schedule.levels=[...], or another schedule with `set` schedule.name=karras"
            )

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        self.require(num_steps)
        first = torch.tensor(self.chosen[:num_steps], dtype=torch.float64).clamp(sigma_min, sigma_max)
        if len(first.unique()) < num_steps:
            raise UserError(
                f"schedule.levels={self.chosen}: not {num_steps} within {sigma_min:g} to {sigma_max:g}; choose others"
            )
        return first
