"""When a CPU may compute something by own code instead of torch's."""

import torch
from torch import Tensor

from elucid.training.networks.attention import forward_derivatives_active


def eager_on_cpu(x: Tensor) -> bool:
    """Return whether a plain tensor on the CPU is computed with, outside of compilation and function transforms."""
    if torch.compiler.is_compiling():  # first, as compilers cannot look into the rest
        return False
    return x.device.type == "cpu" and type(x) is Tensor and not torch._C._are_functorch_transforms_active()


def takes_own_gradient(x: Tensor) -> bool:
    """Return whether x is in float32, and an own `autograd.Function` may be applied to it, which derives backwards."""
    eager = eager_on_cpu(x) and x.dtype == torch.float32
    return eager and not forward_derivatives_active() and not torch.is_autocast_enabled("cpu")
