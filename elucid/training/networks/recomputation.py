"""Activation checkpointing: regions of a network are computed again in the backward pass instead of stored."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from elucid.training.networks.attention import forward_derivatives_active
from elucid.training.networks.regions import regions


def recompute(network: nn.Module) -> int:
    """Let each region of a network forget its activations and compute them again in the backward pass.

    Gradients are the same to the bit, as random numbers such as dropout's are drawn again, too (Chen et al. 2016, arXiv
    1604.06174). Returns the number of regions.
    """
    found = regions(network)
    for region in found:
        region.forward = _Recomputed(region.forward)
    return len(found)


class _Recomputed:
    """The forward function of a region. An object, since networks are copied and pickled."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *inputs, **named):
        if not torch.is_grad_enabled() or forward_derivatives_active():
            return self.function(*inputs, **named)
        return checkpoint(self.function, *inputs, use_reentrant=False, **named)
