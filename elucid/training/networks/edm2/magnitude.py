"""Operations that keep the expected magnitude of activations (Karras et al. 2024, arXiv 2312.02696).

The magnitude of a tensor is the root of its mean square; inputs of magnitude 1 give outputs of about magnitude 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

EPS = 1e-4
SILU_MAGNITUDE = 0.596
"""The magnitude of silu(x), x ~ N(0, 1), by which the activation is divided."""


def unit_magnitude(x: Tensor, dims: Sequence[int], eps: float = EPS, scale: float = 1.0) -> Tensor:
    """Return scale * x / (eps + magnitude over `dims`), in the shape and type of x; sums in float32 or better."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return x * (scale * inverse_of(norm_over(x, dims), x, eps)[0]).to(x.dtype)
    return UnitMagnitude.apply(x, tuple(dims), eps, scale)


def norm_over(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the Euclidean norm over `dims`, which stay with size 1, in float32 or better."""
    dtype = at_least_float32(x)
    if x.stride(dims[-1]) == 1:
        return torch.linalg.vector_norm(x, dim=list(dims), keepdim=True, dtype=dtype)
    # On a CPU torch's norm over elements that are apart in memory is up to 25 times slower than this.
    squares = x.to(dtype).square().sum(dim=list(dims), keepdim=True)
    return squares.clamp_min(torch.finfo(dtype).tiny).sqrt()  # at 0 the root has no derivative


def inverse_of(norm: Tensor, x: Tensor, eps: float) -> tuple[Tensor, float]:
    """Return 1 / (eps + norm / root), and the root of the number of elements that a norm of x is over."""
    root = math.sqrt(x.numel() // max(norm.numel(), 1))  # a process may have no row of a weight that is shared out
    return 1 / (eps + norm / root), root


class UnitMagnitude(torch.autograd.Function):
    """`unit_magnitude` with half of the passes over memory that its operations would take one by one, backward."""

    @staticmethod
    def forward(ctx, x: Tensor, dims: tuple[int, ...], eps: float, scale: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.how = dims, eps, scale
        ctx.norm = norm_over(x, dims)
        return x * (scale * inverse_of(ctx.norm, x, eps)[0]).to(x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor):
        (x,), (dims, eps, scale) = ctx.saved_tensors, ctx.how
        norm = norm_over(x, dims) if torch.is_grad_enabled() else ctx.norm  # to be differentiated again
        inverse, root = inverse_of(norm, x, eps)
        # In float16 factors such as 1 / norm^2 would overflow, so all but the result is in float32.
        x, dy, dtype = x.to(norm.dtype), dy.to(norm.dtype), x.dtype
        along = (dy * x).sum(dim=dims, keepdim=True)
        bend = -scale * along * inverse**2 / (root * norm.clamp_min(torch.finfo(norm.dtype).tiny))
        return torch.addcmul(dy * (scale * inverse), x, bend).to(dtype), None, None, None


def at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def unit_rows(weight: Tensor, scale: float = 1.0) -> Tensor:
    """Return `scale` times a weight whose rows weight[i] have magnitude 1: their norm is the root of the fan-in."""
    return unit_magnitude(weight, range(1, weight.ndim), scale=scale)


def balanced_shares(balance: float) -> tuple[float, float]:
    """Return (1-t, t) / sqrt((1-t)^2 + t^2) for the balance t, 0 to 1: the factors of the terms of a sum."""
    size = math.hypot(1 - balance, balance)
    return (1 - balance) / size, balance / size


def balanced_concat(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Concatenate channels, a with a share of 1-t and b of t in the magnitude of what follows."""
    n_a, n_b = a.shape[1], b.shape[1]
    of_a, of_b = (
        share * math.sqrt((n_a + n_b) / n) for share, n in zip(balanced_shares(balance), (n_a, n_b), strict=True)
    )
    return torch.cat([a * of_a, b * of_b], dim=1)
