"""When a CPU may compute something by own code instead of torch's."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from elucid.training.networks.attention import forward_derivatives_active


def eager_on_cpu(x: Tensor) -> bool:
    """Return whether a plain tensor on the CPU is computed with, outside of compilation and function transforms."""
    if torch.compiler.is_compiling():  # first, as compilers cannot look into the rest
        return False
    transformed = torch._C._are_functorch_transforms_active() or torch.jit.is_tracing()
    return x.device.type == "cpu" and type(x) is Tensor and not transformed


def takes_own_gradient(x: Tensor) -> bool:
    """Return whether x is in float32, and an `autograd.Function` without forward derivative may be applied to it."""
    forwards = forward_derivatives_active() or forward_ad._current_level >= 0
    return eager_on_cpu(x) and x.dtype == torch.float32 and not forwards and not torch.is_autocast_enabled("cpu")


def torchs_gradient(dy: Tensor) -> bool:
    """Return whether a backward pass must be torch's own: it will be differentiated, or many of it run as one."""
    return torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(dy)
