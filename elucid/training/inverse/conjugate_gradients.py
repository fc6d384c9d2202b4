"""Conjugate gradients, for a batch of independent systems."""

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    tolerance: float = 1e-6,
    iterations: int = 100,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return v with M v = b for each sample, b [B,...], in the dtype of b (Hestenes & Stiefel 1952).

    `apply` returns M v, where M is symmetric and positive semidefinite, another for each sample if need be. A sample is
    done if |b - M v| <= tolerance |b|, or if rounding or an M that is not such a matrix leaves no direction to go; it
    then stays as it is, so that it does not depend on the others. After `iterations` products all are. The v with the
    least |b - M v| is returned, never more than |b|: for an M that is a little asymmetric or indefinite the last may be
    anywhere. `dtype` is that of the iteration, by default that of b.
    """
    r = b.to(dtype or b.dtype)
    v, p = torch.zeros_like(r), r
    norm = _dot(r, r)
    goal, nearest, least = tolerance**2 * norm, v, norm
    for _ in range(iterations):
        going = norm > goal
        if not bool(going.any()):
            break
        q = apply(p).to(r.dtype)
        curvature = _dot(p, q)
        going = going & (curvature > 0)
        alpha = torch.where(going, norm / curvature, 0.0)
        v, r = v + alpha * p, r - alpha * q
        following = torch.where(going, _dot(r, r), 0.0)  # 0 ends a sample without a direction
        better = going & (following < least)
        nearest, least = torch.where(better, v, nearest), torch.where(better, following, least)
        p = r + torch.where(going, following / norm, 0.0) * p
        norm = following
    return nearest.to(b.dtype)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each sample, [B,1,...]."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))
