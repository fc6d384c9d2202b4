"""Data parallelism: gradient synchronisation and gathering of weights."""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from elucid.torch_utils import distributed
from elucid.torch_utils.sharding.parts import is_sharded
from elucid.torch_utils.weights.buffers import changing_buffers


def wrap(objective: nn.Module, device: torch.device, find_unused: bool = True) -> nn.Module:
    """Wrap the objective in DistributedDataParallel; a single process gets the objective itself.

    A parameter unused in a step contributes a zero gradient on processes that do not use it, and gets no gradient if
    no process uses it; without `find_unused` there must be none. The objective returns an object whose `loss` is the
    only part that is differentiated. Buffers are those of the first process, in each pass if training may change any.
    """
    if any(map(is_sharded, objective.parameters())):  # FSDP2 exchanges what it has gathered
        if find_unused and hasattr(objective, "set_reduce_scatter_unused_params"):  # torch 2.13
            objective.set_reduce_scatter_unused_params(True)
        return objective
    if distributed.world_size() == 1:
        return objective
    # On CPUs, gradients of 1x1 convolutions have another, equivalent stride order; copying them is cheap.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    changing = bool(changing_buffers(objective))
    if not changing:  # DistributedDataParallel leaves them alone then, from the first step on
        for buffer in objective.buffers():
            torch.distributed.broadcast(buffer, 0)
    parallel = DistributedDataParallel(
        objective, gradient_as_bucket_view=True, find_unused_parameters=find_unused, broadcast_buffers=changing
    )
    if find_unused:
        objective.register_forward_hook(lambda module, args, out: _with_accumulated(parallel, module, out))
    return parallel


def _with_accumulated(parallel: DistributedDataParallel, objective: nn.Module, out):
    """Make the loss of the last micro-batch depend on all parameters with gradients from earlier micro-batches.

    DistributedDataParallel does not synchronise gradients of parameters that no process uses in the last micro-batch.
    """
    if parallel.require_backward_grad_sync and torch.is_grad_enabled():
        earlier = [one for one in objective.parameters() if one.requires_grad and one.grad is not None]
        if earlier:
            out.loss = out.loss + 0 * sum(parameter.sum() for parameter in earlier)
    return out


def sync_gradients(module: nn.Module, last: bool) -> AbstractContextManager:
    """Context of one gradient accumulation step; gradients are synchronised in the last one only."""
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """Return all weights and buffers by name, of a sharded module the parts of this process."""
    return module.state_dict()


def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the Euclidean norm over all tensors; 0 if there are none."""
    tensors = list(tensors)
    if not tensors:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
