"""Guidance that a network has learned: its scale is a condition."""

from collections.abc import Sequence

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.guidance.base import Interval, require_scale
from elucid.training.preconds.wrapper import DenoiserWrapper
from elucid.training.types import Cond, Prediction


class DistilledGuidance(DenoiserWrapper):
    """D(x; sigma, w) of a network that was told the scale w in training (Meng et al. 2023, arXiv 2210.03142).

    One evaluation, for sigma in (lo, hi] of `interval` at w = `scale`, else without guidance. `trained` is the range of
    scales in training, if it is known. Raises UserError for a scale outside, and for a denoiser without that condition.
    """

    def __init__(
        self,
        denoiser,
        scale: float = 1.0,
        interval: list[float] | None = None,
        trained: Sequence[float] | None = None,
    ):
        super().__init__(denoiser)
        self.scale, self.interval = require_scale(scale), Interval(interval)
        if "guidance_scale" not in denoiser.spec.vector:
            raise UserError(
                "guidance.name=distilled: the model was not told a scale in training; use cfg, or train with `loss`="
                "guidance_distillation"
            )
        if trained is not None and self.scale != 1 and not trained[0] <= self.scale <= trained[1]:
            raise UserError(
                f"`guidance`={scale:g}: the model was trained for scales from {trained[0]:g} to {trained[1]:g}; choose "
                "one of these"
            )

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        inside = self.interval.contains(torch.as_tensor(sigma).reshape(-1))
        scale = torch.where(inside, self.scale, 1.0)  # where the level is, of samplers on the host
        return self.denoiser(x, sigma, {**(cond or {}), "guidance_scale": scale})
