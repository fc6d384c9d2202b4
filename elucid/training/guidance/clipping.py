"""Keeping the predicted image in range while sampling."""

import dataclasses

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import as_levels
from elucid.training.preconds.wrapper import DenoiserWrapper
from elucid.training.types import Cond, Prediction


class Clipping(DenoiserWrapper):
    """Clips x0 to [-1, 1], as published samplers of DDPM do (Ho et al. 2020).

    With `threshold` p, e.g. 0.995, each image is instead clipped to [-s, s] and divided by s, where s is the
    p-quantile of its |x0|, at least 1 (dynamic thresholding, Saharia et al. 2022, arXiv 2205.11487, section 2.3).
    The part of x0 that comes from classifier guidance is left out, as it is added after clipping. Raises UserError for
    a threshold that is not in (0, 1].
    """

    def __init__(self, denoiser, threshold: float | None = None):
        super().__init__(denoiser)
        if threshold is not None and not 0 < threshold <= 1:
            raise UserError(f"`threshold`={threshold:g} must be above 0 and at most 1, e.g. 0.995")
        self.threshold = threshold

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        out = self.denoiser(x, sigma, cond)
        if out.guidance is None:
            return dataclasses.replace(out, x0=self.limited(out.x0))
        shift = as_levels(sigma, x, torch.as_tensor(sigma).dtype) ** 2 * out.guidance
        return dataclasses.replace(out, x0=self.limited(out.x0 - shift) + shift)

    def limited(self, x0: Tensor) -> Tensor:
        """Return x0 in range."""
        if self.threshold is None:
            return x0.clamp(-1, 1)
        bound = torch.quantile(x0.abs().flatten(1), self.threshold, dim=1).clamp(min=1).reshape(-1, 1, 1, 1)
        return x0.clamp(-bound, bound) / bound


def clipped(denoiser, clip: bool | None = None, threshold: float | None = None):
    """Return the denoiser with clipping; `clip` None clips if the denoiser's kind does (`clips`) and has pixels.

    Raises UserError if `clip` and `threshold` contradict each other.
    """
    if threshold is not None and clip is False:
        raise UserError("`clip`=0 and `threshold` contradict each other; use one of them")
    if threshold is None and not (denoiser.clips and denoiser.spec.bounded if clip is None else clip):
        return denoiser
    return Clipping(denoiser, threshold)
