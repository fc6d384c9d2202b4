"""Attention, and forward-mode differentiation of networks."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

_explicit = 0
"""Number of active `forward_derivatives` contexts; a plain int, which compiled code can read."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for q, k, v [B,heads,N,D] (Vaswani et al. 2017, eq. 1)."""
    # Compiled, torch's other kernel with a fixed order of sums is not found for all types on CUDA.
    compiles = torch.compiler.is_compiling() and torch.are_deterministic_algorithms_enabled() and q.is_cuda
    if not _explicit and not compiles:
        return F.scaled_dot_product_attention(q, k, v)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    # Softmax by hand: of torch's own, the forward derivative cannot be differentiated backwards.
    weights = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
    return (weights / weights.sum(dim=-1, keepdim=True)) @ v


@contextmanager
def forward_derivatives() -> Iterator[None]:
    """Compute attention explicitly, and nothing by compiled code: torch's fused kernels have no forward derivative."""
    global _explicit
    _explicit += 1
    try:
        # Nothing is compiled unless that module is there; importing it takes a second.
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield
    finally:
        _explicit -= 1


def forward_derivatives_active() -> bool:
    """Return whether a `forward_derivatives` context is active, in which nothing can be recomputed backwards."""
    return _explicit > 0


def jvp(function: Callable, primals: tuple, tangents: tuple) -> tuple[Tensor, Tensor]:
    """Return function(*primals), a tensor, and its derivative along the tangents; both support backpropagation.

    Hooks and what the function stores outside see the values, so that data parallelism exchanges gradients as ever.
    """
    with forward_derivatives(), forward_ad.dual_level():
        duals = (forward_ad.make_dual(*pair) for pair in zip(primals, tangents, strict=True))
        value, derivative = forward_ad.unpack_dual(function(*duals))
        return value, torch.zeros_like(value) if derivative is None else derivative
