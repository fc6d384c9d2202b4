"""One objective on several processes: how gradients are exchanged, and where weights are gathered."""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from elucid.torch_utils import distributed


def wrap(objective: nn.Module, device: torch.device) -> nn.Module:
    """The module whose backward passes average gradients over processes; alone, the objective itself.

    A parameter that a step does not use, on some processes or on all, counts as a gradient of zero, or none at all.
    The objective returns something with a `loss`, the only thing that is differentiated.
    """
    if distributed.world_size() == 1:
        return objective
    # CPU kernels give gradients of 1x1 convolutions in another, equivalent stride order; copying them is cheap.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    parallel = DistributedDataParallel(objective, gradient_as_bucket_view=True, find_unused_parameters=True)
    objective.register_forward_hook(lambda module, args, out: _with_accumulated(parallel, module, out))
    return parallel


def _with_accumulated(parallel: DistributedDataParallel, objective: nn.Module, out):
    """In the pass that exchanges gradients, let the loss depend on every parameter that has one from earlier passes.

    DistributedDataParallel leaves the gradients of what no process uses in that pass as they are: they would differ.
    """
    if parallel.require_backward_grad_sync and torch.is_grad_enabled():
        earlier = [one for one in objective.parameters() if one.requires_grad and one.grad is not None]
        if earlier:
            out.loss = out.loss + 0 * sum(parameter.sum() for parameter in earlier)
    return out


def sync_gradients(module: nn.Module, last: bool) -> AbstractContextManager:
    """Around one of several accumulated passes: processes exchange gradients in the last one only."""
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers by name; where they are sharded, this is what gathers them."""
    return module.state_dict()


def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all elements together; 0 of none."""
    tensors = list(tensors)
    if not tensors:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
