"""Halving and doubling of images by averaging and repeating pixels, each of which is the other's gradient."""

import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.training.networks.attention import forward_derivatives_active


def halved(x: Tensor) -> Tensor:
    """Return the mean of each 2x2 pixels of x [B,C,H,W]."""
    return Halved.apply(x) if _on_gpu(x) else F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Return x [B,C,H,W] with each pixel repeated 2x2 times."""
    return Doubled.apply(x) if _on_gpu(x) else F.interpolate(x, scale_factor=2, mode="nearest")


def _on_gpu(x: Tensor) -> bool:
    """Return whether the gradient is faster by the other's kernel: torch's own for it are three times slower there."""
    return x.is_cuda and not torch.compiler.is_compiling() and not forward_derivatives_active()


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.odd = x.shape[2] % 2, x.shape[3] % 2
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx, dy):
        dx = doubled(dy * 0.25)
        return F.pad(dx, (0, ctx.odd[1], 0, ctx.odd[0])) if any(ctx.odd) else dx


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return F.interpolate(x, scale_factor=2, mode="nearest")

    @staticmethod
    def backward(ctx, dy):
        return halved(dy) * 4
