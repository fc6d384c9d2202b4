"""Keeping the predicted image in range while sampling."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.samplers.base import Denoise
from elucid.training.types import Prediction


class Clipping:
    """Clips x0 to [-1, 1]; `clip` None does so for models of pixels with discrete noise levels, as published for DDPM.

    With `threshold` p, e.g. 0.995, each image is instead clipped to [-s, s] and divided by s, where s is the
    p-quantile of its |x0|, at least 1 (dynamic thresholding, Saharia et al. 2022, arXiv 2205.11487, section 2.3).
    """

    def __init__(self, clip: bool | None = None, threshold: float | None = None):
        if threshold is not None and not 0 < threshold <= 1:
            raise UserError(f"threshold={threshold:g} must be above 0 and at most 1, e.g. 0.995 (`threshold`)")
        if threshold is not None and clip is False:
            raise UserError("clip=0 and threshold contradict each other; use one of them (`clip`)")
        self.clip, self.threshold = clip, threshold

    def unguided(self, denoise: Denoise, prediction: Prediction, sigma: Tensor) -> Tensor:
        """Return x0 in range, without the part of classifier guidance, which published samplers add after clipping."""
        x0 = prediction.x0
        if prediction.guidance is not None:
            x0 = x0 - sigma**2 * prediction.guidance.to(x0.dtype)
        if self.threshold is not None:
            bound = torch.quantile(x0.abs().flatten(1), self.threshold, dim=1).clamp(min=1).reshape(-1, 1, 1, 1)
            return x0.clamp(-bound, bound) / bound
        clip = self.clip
        if clip is None:
            clip = getattr(denoise, "levels", None) is not None and not denoise.spec.latent
        return x0.clamp(-1, 1) if clip else x0
