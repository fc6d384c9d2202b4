"""Classifier guidance."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.guidance.base import Interval
from elucid.training.preconds.base import Preconditioned, as_levels
from elucid.training.preconds.wrapper import DenoiserWrapper
from elucid.training.types import Cond, NetSpec, Prediction

LARGEST_LEVEL = 80.0
"""Noise level at which a guided model of flow matching starts, the largest of EDM's schedule."""


class ClassifierGuidance(DenoiserWrapper):
    """D + scale sigma^2 grad_x ln p(y | x; sigma) for sigma in (lo, hi] (Dhariwal & Nichol 2021, section 4).

    y is `cond["labels"]` [B,classes]; an all-zero label gives no gradient. `Prediction.guidance` is the gradient times
    `scale`, which ancestral samplers use apart. `classifier` returns logits; it is put into eval mode and frozen.
    `interval` is (lo, hi), see `Interval`. A denoiser without classes has those of the classifier in `spec`, and is not
    given labels. Raises UserError for a classifier that does not fit the denoiser (`require_fit`).
    """

    def __init__(self, denoiser, classifier, scale: float = 1.0, interval: list[float] | None = None):
        super().__init__(denoiser)
        self.scale, self.interval = float(scale), Interval(interval)
        if not math.isfinite(self.scale):
            raise UserError(f"`classifier_scale`={scale:g} must be a finite number; 0 means no guidance")
        require_fit(denoiser, classifier)
        self.classifier = classifier.eval().requires_grad_(False)

    @property
    def spec(self) -> NetSpec:
        return self.denoiser.spec.with_vector("labels", self.classifier.spec.out_channels)

    @property
    def starts_from_noise(self) -> bool:
        """False: the classifier knows no pure noise, and its gradient counts sigma^2 times."""
        return False

    @property
    def sigma_max(self) -> float:
        own = self.denoiser.sigma_max
        return min(own, LARGEST_LEVEL) if self.denoiser.starts_from_noise else own

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        cond = cond or {}
        labels, others = cond.get("labels"), {name: value for name, value in cond.items() if name != "labels"}
        main = self.denoiser(x, sigma, cond if self.denoiser.spec.label_dim else others)
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        inside = self.interval.contains(sigma)
        if labels is None or self.scale == 0 or not bool(inside.any()):
            return main
        sigma, inside = as_levels(sigma, x, x.dtype), as_levels(inside, x, torch.bool)
        gradient = torch.where(inside, self.scale * self.gradient(x, sigma, labels, others), 0.0)
        # In the precision of the sampler: an ancestral one subtracts the gradient's part again, which may be large.
        x0 = main.x0 + sigma**2 * gradient.to(x.dtype)
        both = gradient if main.guidance is None else main.guidance + gradient
        return Prediction(x0, main.var, main.logvar, both)

    def gradient(self, x: Tensor, sigma: Tensor, labels: Tensor, cond: Cond) -> Tensor:
        """Return grad_x sum_k y_k ln p(k | x; sigma), float32 [B,C,H,W], also within `torch.no_grad`."""
        with torch.enable_grad():
            x = x.detach().to(torch.float32).requires_grad_()
            log_probability = self.classifier(x, sigma, cond).to(torch.float32).log_softmax(dim=1)
            return torch.autograd.grad((labels.to(torch.float32) * log_probability).sum(), x)[0]


def require_fit(denoiser, classifier: Preconditioned) -> None:
    """Raise UserError unless size, channels, classes and kind of images are the same, and the levels if both have any.

    A denoiser without classes fits any.
    """
    ours, theirs = denoiser.spec, classifier.spec
    sizes = [f"{spec.resolution[1]}x{spec.resolution[0]}" for spec in (ours, theirs)]
    kinds = ["latents" if spec.latent else "pixels" for spec in (ours, theirs)]
    for what, one, other in (
        ("image size", *sizes),
        ("channels", ours.image_channels, theirs.image_channels),
        ("kind of images", *kinds),
        ("number of classes", ours.label_dim or theirs.out_channels, theirs.out_channels),
    ):
        if one != other:
            raise UserError(f"`classifier`: its {what}, {other}, must be the model's, {one}; choose another snapshot")
    one, other = denoiser.levels, classifier.levels
    if one is not None and other is not None and not same_levels(one, other):
        raise UserError(
            f"`classifier`: its noise levels, {described(other)}, must be the model's, {described(one)}; train it with "
            "the same `beta_schedule` and `diffusion_steps`, or with `precond`=classifier, which fits all"
        )


def same_levels(one: Tensor, other: Tensor) -> bool:
    """Return whether discrete levels are the same, up to the rounding of published float32 tables."""
    one, other = (levels.to("cpu", torch.float64) for levels in (one, other))
    return len(one) == len(other) and torch.allclose(one, other, rtol=1e-3, atol=0)


def described(levels: Tensor) -> str:
    return f"{len(levels)} from {float(levels[-1]):.4g} to {float(levels[0]):.4g}"
