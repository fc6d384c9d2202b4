"""Distances of images and weights of pairs of noise levels, by the names that consistency losses take."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from elucid.dnnlib.errors import UserError

DISTANCES = ("huber", "pixel-huber", "l1", "l2", "l2-32", "squares")


class Distance:
    """d(x, y) [B] of images [B,C,H,W], by its name.

    huber: sqrt(|x - y|^2 + c^2) - c over an image (Song & Dhariwal 2023, arXiv 2310.14189, eq. 9), with c = 0 the
    Euclidean norm; pixel-huber: the mean of huber of each element; l1 and l2: the mean over elements of |x - y| and
    (x - y)^2; l2-32: the latter of images resized to 32x32; squares: the sum of (x - y)^2. c None is
    0.00054 sqrt(C H W). Raises UserError for another name, and for a negative c.
    """

    def __init__(self, name: str, c: float | None = 0.0):
        if name not in DISTANCES:
            raise UserError(f"loss.distance={name!r} is unknown; choose from {', '.join(DISTANCES)}")
        if c is not None and c < 0:
            raise UserError(f"loss.c={c:g} must not be negative; iCT takes 0.00054 sqrt(C H W)")
        self.name, self.c = name, c

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.name == "l2-32":
            x, y = (F.interpolate(one, size=(32, 32), mode="bilinear") for one in (x, y))
        difference = (x - y).flatten(1)
        if self.name == "l1":
            return difference.abs().mean(dim=1)
        squares = difference.square()
        if self.name.startswith("l2"):
            return squares.mean(dim=1)
        c = 0.00054 * math.sqrt(difference.shape[1]) if self.c is None else self.c
        if self.name == "pixel-huber":
            return ((squares + c**2).sqrt() - c).mean(dim=1)
        squares = squares.sum(dim=1)
        if self.name == "squares":
            return squares
        if c:
            return (squares + c**2).sqrt() - c
        # The gradient of a root at 0 is infinite; where both are equal there is nothing to learn.
        equal = squares == 0
        return torch.where(equal, 0 * squares, torch.where(equal, 1, squares).sqrt())


Weight = Callable[[Tensor, Tensor, object], Tensor]

WEIGHTS: dict[str, Weight] = {
    "uniform": lambda t, r, denoiser: torch.ones_like(t),
    "gap": lambda t, r, denoiser: 1 / (t - r),
    "root-gap": lambda t, r, denoiser: (t - r).rsqrt(),
    "c_out": lambda t, r, denoiser: 1 / denoiser.coefficients(t).c_out,
    "c_out_sq": lambda t, r, denoiser: 1 / denoiser.coefficients(t).c_out ** 2,
    "karras": lambda t, r, denoiser: 1 / t**2 + 1 / sigma_data(denoiser) ** 2,
    "snr": lambda t, r, denoiser: 1 / t**2,
    "snr+1": lambda t, r, denoiser: 1 / t**2 + 1,
    "truncated-snr": lambda t, r, denoiser: (1 / t**2).clamp_min(1),
}
"""Weights of a pair t > r: "gap" is iCT's and ECT's, "karras" ECT's on ImageNet, "snr" to "truncated-snr" CM's,
the rest FastGen's."""


def weight_of(name: str) -> Weight:
    """Return the weight of a name. Raises UserError for an unknown one."""
    if name not in WEIGHTS:
        raise UserError(f"loss.weighting={name!r} is unknown; choose from {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def sigma_data(denoiser) -> float:
    """Return the deviation of the data that a denoiser was made for; 0.5 if it says none."""
    return getattr(denoiser, "sigma_data", 0.5)
