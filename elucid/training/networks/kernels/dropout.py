"""Dropout, on CPUs from four random numbers per draw of torch's generator."""

import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.training.networks.attention import forward_derivatives_active

LEVELS = 2**16


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return x with a share p of its elements 0 and the others divided by 1 - p (Srivastava et al. 2014).

    On a CPU p is rounded to a multiple of 1/65536.
    """
    dropped = round(p * LEVELS)
    if not training or not 0 < dropped < LEVELS or not _draws_at_once(x):
        return F.dropout(x, p, training)
    return Dropout.apply(x, dropped)


def _draws_at_once(x: Tensor) -> bool:
    if torch.compiler.is_compiling():  # first, as compilers cannot look into the rest
        return False
    transformed = forward_derivatives_active() or torch._C._are_functorch_transforms_active()
    return x.device.type == "cpu" and x.is_floating_point() and type(x) is Tensor and not transformed


class Dropout(torch.autograd.Function):
    """Dropout with probability dropped / 65536: 16 of the 64 bits of a draw decide about each element.

    torch's own draws once per element, in one thread, which takes several times as long as normalisation does.
    """

    @staticmethod
    def forward(ctx, x: Tensor, dropped: int) -> Tensor:
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        # In the order in memory of x, without holes; of numbers, as torch is ten times slower with bool.
        kept = torch.empty_like(x, dtype=torch.uint8)
        torch.ge(bits[: x.numel()], dropped - LEVELS // 2, out=kept.as_strided((x.numel(),), (1,)))
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - dropped)
        return scaled(x, kept, ctx.scale)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:
        return scaled(dy, *ctx.saved_tensors, ctx.scale), None


def scaled(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Return scale * x where `kept` is 1, and 0 where it is 0."""
    return kept.to(x.dtype).mul_(scale).mul_(x)
