"""Which kernels a network computes with: fused ones on CUDA, and in which order its images lie in memory."""

import torch
from torch import nn

from elucid.training.networks.kernels.rows import has_triton

WIDE = 128
"""Channels from which on the order makes no difference to a training step on a CPU (docs/performance.md)."""


def choose_kernels(
    model: nn.Module,
    computes_in: torch.dtype,
    channels_last: bool | None = None,
    fused: bool | None = None,
    training: bool = False,
) -> None:
    """Store the weights with channels last, or first, and let layers use fused kernels or not; None is what is faster.

    What a convolution returns lies in memory as its weights do. On a CPU in float32 convolutions of few channels, and
    those of a pass without gradients, are faster with channels last. On CUDA all are, but only with the fused kernels,
    which take no other order. Networks say `takes_channels_last` if they return the same either way.
    """
    takes_it, device = getattr(model, "takes_channels_last", False), next(model.parameters()).device
    if fused is None:
        fused = device.type == "cuda" and takes_it and channels_last is not False and has_triton()
    if channels_last is None and device.type == "cpu":
        channels_last = takes_it and computes_in == torch.float32 and (not training or _width(model) < WIDE)
    elif channels_last is None:
        channels_last = fused
    if channels_last:
        model.to(memory_format=torch.channels_last)
    for module in model.modules() if fused else ():
        if hasattr(module, "fused"):
            module.fused = True


def _width(model: nn.Module) -> int:
    """Return the number of channels that most convolutions have at least; 0 if there are none."""
    widths = sorted(one.shape[0] for one in model.parameters() if one.ndim == 4 and one.shape[-1] > 1)
    return widths[len(widths) // 2] if widths else 0
