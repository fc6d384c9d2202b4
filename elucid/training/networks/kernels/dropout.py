"""Dropout, on CPUs from four random numbers per draw of torch's generator."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.attention import forward_derivatives_active
from elucid.training.networks.kernels.cpu import eager_on_cpu

LEVELS = 2**16


class Dropout(nn.Module):
    """Makes a share p of all elements 0 and divides the others by 1 - p (Srivastava et al. 2014), in training.

    On a CPU p is rounded to a multiple of 1/65536, and the masks are not torch's, unless `at_once` is False.
    """

    at_once = True

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * LEVELS)
        if not self.training or not 0 < dropped < LEVELS or not self.at_once or not eager_on_cpu(x):
            return F.dropout(x, self.p, self.training)
        kept, scale = drawn(x, dropped), LEVELS / (LEVELS - dropped)
        # Forward derivatives see the mask that a pass without them sees.
        return x * factors(kept, x, scale) if forward_derivatives_active() else Masked.apply(x, kept, scale)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def keep_torchs_masks(model: nn.Module) -> None:
    """Let a model's dropout draw as torch does, as in runs of earlier versions."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.at_once = False


def drawn(x: Tensor, dropped: int) -> Tensor:
    """Draw a mask like x, 0 with probability dropped / 65536, else 1: 16 of the 64 bits of a draw for each element.

    torch's own draws once per element, in one thread, which takes several times as long as normalisation does.
    """
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    # In the order in memory of x, without holes; of numbers, as torch is ten times slower with bool.
    kept = torch.empty_like(x, dtype=torch.uint8)
    torch.ge(bits[: x.numel()], dropped - LEVELS // 2, out=kept.as_strided((x.numel(),), (1,)))
    return kept


def factors(kept: Tensor, x: Tensor, scale: float) -> Tensor:
    return kept.to(x.dtype).mul_(scale)


class Masked(torch.autograd.Function):
    """scale * x where `kept` is 1, and 0 where it is 0; only the mask is kept for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return factors(kept, x, scale).mul_(x)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:
        return factors(*ctx.saved_tensors, dy, ctx.scale).mul_(dy), None, None
