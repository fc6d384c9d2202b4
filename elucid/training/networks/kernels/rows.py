"""Images as rows of channels, which the fused kernels read: channels are last in memory."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from elucid.training.networks.attention import forward_derivatives_active

TILE, WARPS = 4096, 4
"""Elements of a tile, which a program reads at once, and its groups of 32 threads."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def runs_fused(x: Tensor) -> bool:
    """Return whether fused kernels can compute with x: on CUDA, channels last, with triton.

    They have no forward derivative, and a compiler fuses by itself.
    """
    fits = x.is_cuda and x.ndim == 4 and x.dtype in DTYPES and x.is_contiguous(memory_format=torch.channels_last)
    return fits and not _needs_torch() and has_triton()


def _needs_torch() -> bool:
    return torch.compiler.is_compiling() or forward_derivatives_active()


@cache
def has_triton() -> bool:
    return find_spec("triton") is not None


def columns_of_tile(channels: int) -> int:
    """Return how many channels a tile has: a power of two from 32 to 128, which divides them if one does."""
    return next((columns for columns in (128, 64) if channels % columns == 0), 32)


def as_rows(x: Tensor) -> tuple[Tensor, int]:
    """Return x and the distance of its rows in memory: C, or more if x is part of a concatenation; a copy if needed."""
    width, positions = x.shape[3], x.shape[2] * x.shape[3]
    step = x.stride(3)
    if min(x.shape) > 1 and x.stride() == (positions * step, 1, width * step, step):
        return x, step
    return x.contiguous(memory_format=torch.channels_last), x.shape[1]
