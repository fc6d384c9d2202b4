"""Activation checkpointing: regions of a network are computed again in the backward pass instead of stored."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from elucid.dnnlib.errors import UserError
from elucid.training.networks.attention import forward_derivatives_active
from elucid.training.networks.regions import regions


def checkpoint_regions(network: nn.Module) -> None:
    """Let each region of a network keep its input only, and compute the rest again in the backward pass.

    Chen et al. 2016, arXiv 1604.06174. Gradients are the same to the bit; random numbers, such as dropout's, are drawn
    again. Raises UserError if the network has no regions.
    """
    found = regions(network)
    if not found:
        raise UserError(f"`checkpointing`: {type(network).__name__} has no repeated blocks; give it a method regions()")
    for region in found:
        region.forward = _Checkpointed(region.forward)


class _Checkpointed:
    """The forward function of a region; an object, since networks are copied."""

    def __init__(self, function: Callable[..., Tensor]):
        self.function = function

    def __call__(self, *inputs, **named):
        if not torch.is_grad_enabled() or forward_derivatives_active():
            return self.function(*inputs, **named)
        return checkpoint(self.function, *inputs, use_reentrant=False, **named)
