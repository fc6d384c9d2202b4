"""Operations that keep the expected magnitude of activations (Karras et al. 2024, arXiv 2312.02696).

The magnitude of a tensor is the root of its mean square; inputs of magnitude 1 give outputs of about magnitude 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-4
SILU_MAGNITUDE = 0.596
"""The magnitude of silu(x), x ~ N(0, 1)."""


def unit_magnitude(x: Tensor, dims: Sequence[int], eps: float = EPS) -> Tensor:
    """Return x / (eps + magnitude over `dims`), in the shape and type of x; sums in float32 or better."""
    norm = torch.linalg.vector_norm(x, dim=list(dims), keepdim=True, dtype=at_least_float32(x))
    count = x.numel() // max(norm.numel(), 1)  # a process may have no row of a weight that is shared out
    return x / (eps + norm / math.sqrt(count)).to(x.dtype)


def at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def unit_rows(weight: Tensor) -> Tensor:
    """Return a weight whose rows weight[i] have magnitude 1, so that their norm is the root of the fan-in."""
    return unit_magnitude(weight, range(1, weight.ndim))


def unit_silu(x: Tensor) -> Tensor:
    """Return silu(x) / 0.596."""
    return F.silu(x) / SILU_MAGNITUDE


def balanced_sum(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Return ((1-t) a + t b) / sqrt((1-t)^2 + t^2) for the balance t, 0 to 1."""
    scale = 1 / math.hypot(1 - balance, balance)
    return torch.lerp(a, b.to(a.dtype), balance) * scale


def balanced_concat(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Concatenate channels, a with a share of 1-t and b of t in the magnitude of what follows."""
    n_a, n_b = a.shape[1], b.shape[1]
    scale = math.sqrt(n_a + n_b) / math.hypot(1 - balance, balance)
    return torch.cat([a * (scale * (1 - balance) / math.sqrt(n_a)), b * (scale * balance / math.sqrt(n_b))], dim=1)
