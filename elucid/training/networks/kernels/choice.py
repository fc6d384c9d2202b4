"""Which kernels a network computes with, on CUDA and on a CPU, and in which order its images lie in memory."""

import torch
from torch import nn

from elucid.training.networks.kernels.rows import has_triton
from elucid.training.networks.kernels.winograd import CHANNELS, faster_here


def choose_kernels(
    model: nn.Module,
    computes_in: torch.dtype,
    channels_last: bool | None = None,
    fused: bool | None = None,
    winograd: bool | None = None,
) -> None:
    """Store the weights with channels last, or as they are, and let layers use fused kernels and Winograd's algorithm.

    None is what is faster. What a convolution returns lies in memory as its weights do. On a CPU in float32 channels
    are last if most convolutions have too few for Winograd's algorithm, which takes them first. On CUDA all are faster
    with channels last, but only with the fused kernels, which take no other order. Networks say `takes_channels_last`
    if they return the same either way.
    """
    takes_it, device = getattr(model, "takes_channels_last", False), next(model.parameters()).device
    float32_on_cpu = device.type == "cpu" and computes_in == torch.float32
    if fused is None:
        fused = device.type == "cuda" and takes_it and channels_last is not False and has_triton()
    if channels_last is None and device.type == "cpu":
        channels_last = takes_it and float32_on_cpu and _width(model) < CHANNELS and not winograd
    elif channels_last is None:
        channels_last = fused
    if channels_last:
        model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if fused and hasattr(module, "fused"):
            module.fused = True
        if hasattr(module, "winograd"):
            module.winograd = (float32_on_cpu and faster_here()) if winograd is None else winograd


def _width(model: nn.Module) -> int:
    """Return the number of channels that most convolutions have at least; 0 if there are none."""
    widths = sorted(one.shape[0] for one in model.parameters() if one.ndim == 4 and one.shape[-1] > 1)
    return widths[len(widths) // 2] if widths else 0
