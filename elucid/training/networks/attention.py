"""Attention, and forward-mode differentiation of networks."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_explicit = 0
"""Number of active `forward_derivatives` contexts; a plain int, which compiled code can read."""


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for q, k, v [B,heads,N,D] (Vaswani et al. 2017, eq. 1)."""
    # Compiled, torch's other kernel with a fixed order of sums is not found for all types on CUDA.
    compiles = torch.compiler.is_compiling() and torch.are_deterministic_algorithms_enabled() and q.is_cuda
    if not _explicit and not compiles:
        return F.scaled_dot_product_attention(q, k, v)
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


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


def jvp(function: Callable, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """Return function(*primals) and its derivative along the tangents; both support backpropagation."""
    with forward_derivatives():
        return torch.func.jvp(function, primals, tangents)
