"""Guidance: denoisers that wrap denoisers and push a prediction away from a weaker one. They nest."""

import math

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Denoiser
from elucid.training.types import Cond, Prediction


class Guidance(nn.Module):
    """Base: D = D_weak + scale (D_main - D_weak) for sigma in (lo, hi], elsewhere D_main at no further cost.

    Called like the denoiser it wraps; a subclass says what the weaker prediction is (`pair`). `interval` is (lo, hi)
    (Kynkäänniemi et al. 2024, arXiv 2404.07724). Raises UserError for an interval that runs backwards
    or a scale that is no number.
    """

    def __init__(self, denoiser: Denoiser, scale: float, interval: tuple[float, float] | None = None):
        super().__init__()
        self.denoiser, self.scale = denoiser, float(scale)
        if not math.isfinite(self.scale):
            raise UserError(f"--cfg={scale:g} must be a finite number; 1 is no guidance")
        self.interval = (0.0, math.inf) if interval is None else tuple(interval)
        if len(self.interval) != 2 or not 0 <= self.interval[0] < self.interval[1]:
            raise UserError(
                f"--guidance_interval={','.join(f'{value:g}' for value in self.interval)} must be LO,HI, LO < HI"
            )
        self.spec, self.sigma_min, self.sigma_max = denoiser.spec, denoiser.sigma_min, denoiser.sigma_max

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return self.denoiser.round_sigma(sigma)

    def pair(self, x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Prediction, Tensor]:
        """The main prediction, and x0 of the weaker one."""
        raise NotImplementedError(f"{type(self).__name__} must define pair(x, sigma, cond)")

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        cond = cond or {}
        sigma = torch.as_tensor(sigma, device=x.device).reshape(-1, 1, 1, 1)
        inside = (sigma > self.interval[0]) & (sigma <= self.interval[1])
        if self.scale == 1 or not bool(inside.any()):
            return self.denoiser(x, sigma, cond)
        main, weak = self.pair(x, sigma, cond)
        guided = weak + self.scale * (main.x0 - weak)
        return Prediction(torch.where(inside, guided, main.x0), main.var, main.logvar)


class ClassifierFreeGuidance(Guidance):
    """The weaker prediction is the same network's with an all-zero label (Ho & Salimans 2022): one doubled pass.

    Raises UserError if the denoiser has no labels.
    """

    def __init__(self, denoiser: Denoiser, scale: float, interval: tuple[float, float] | None = None):
        super().__init__(denoiser, scale, interval)
        if not denoiser.spec.label_dim:
            raise UserError(
                f"--cfg={scale:g}: the model was trained without classes; leave --cfg out, or give a --guide"
            )

    def pair(self, x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Prediction, Tensor]:
        count = len(x)
        labels = cond.get("labels", x.new_zeros(count, self.spec.label_dim))
        both = {name: twice(value, count) for name, value in cond.items()}
        both["labels"] = torch.cat([labels.expand(count, -1), torch.zeros_like(labels).expand(count, -1)])
        out = self.denoiser(torch.cat([x, x]), twice(sigma, count), both)
        main = Prediction(*(None if part is None else part[:count] for part in (out.x0, out.var, out.logvar)))
        return main, out.x0[count:]


class AutoGuidance(Guidance):
    """The weaker prediction is another model's, e.g. a smaller or less trained one (Karras et al. 2024, 2406.02507).

    A guide without classes is not told them. Raises UserError if the two do not fit together.
    """

    def __init__(self, denoiser: Denoiser, guide: Denoiser, scale: float, interval: tuple[float, float] | None = None):
        super().__init__(denoiser, scale, interval)
        for what, ours, theirs in (
            ("size", denoiser.spec.resolution, guide.spec.resolution),
            ("channels", denoiser.spec.image_channels, guide.spec.image_channels),
            ("classes", denoiser.spec.label_dim, guide.spec.label_dim or denoiser.spec.label_dim),
        ):
            if ours != theirs:
                raise UserError(
                    f"--guide: its {what}, {theirs}, must be the network's, {ours}; choose another snapshot"
                )
        self.guide = guide

    def pair(self, x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Prediction, Tensor]:
        told = cond if self.guide.spec.label_dim else {name: cond[name] for name in cond if name != "labels"}
        return self.denoiser(x, sigma, cond), self.guide(x, sigma, told).x0


def twice(value: Tensor, count: int) -> Tensor:
    """The first axis, of length `count` or 1, as `count` rows and once more."""
    return value.expand(count, *value.shape[1:]).repeat(2, *[1] * (value.ndim - 1))
