"""In which order a network's images lie in memory: channels first, as torch has them, or last."""

import torch
from torch import nn

WIDE = 128
"""Channels from which on the order makes no difference to a training step on a CPU (docs/performance.md)."""


def place_channels(
    model: nn.Module, computes_in: torch.dtype, last: bool | None = None, training: bool = False
) -> None:
    """Store the weights with channels last, or first, and with them what a convolution returns; None is what is faster.

    On a CPU in float32 convolutions of few channels, and those of a pass without gradients, are faster with channels
    last. Elsewhere it is not measured, and it is left to networks that say `takes_channels_last`.
    """
    if last is None:
        measured = next(model.parameters()).device.type == "cpu" and computes_in == torch.float32
        faster = measured and (not training or _width(model) < WIDE)
        last = faster and getattr(model, "takes_channels_last", False)
    if last:
        model.to(memory_format=torch.channels_last)


def _width(model: nn.Module) -> int:
    """Return the number of channels that most convolutions have at least; 0 if there are none."""
    widths = sorted(one.shape[0] for one in model.parameters() if one.ndim == 4 and one.shape[-1] > 1)
    return widths[len(widths) // 2] if widths else 0
