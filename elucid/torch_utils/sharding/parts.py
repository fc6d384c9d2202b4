"""Tensors of which each process may hold a part (DTensor), and ordinary ones, in the same words."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from elucid.torch_utils import distributed


def is_sharded(tensor: Tensor) -> bool:
    """Return whether processes hold parts of a tensor; without importing DTensor, which takes a while."""
    return hasattr(tensor, "to_local")


def part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, in the same memory; all of an ordinary tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the part of each tensor that this process holds, in the same memory."""
    return [part(tensor) for tensor in tensors]


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor on each process. All processes must call it together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def placed_like(full: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor, which all processes have, on the device of `like`, and as sharded as that is."""
    if is_sharded(full) or not is_sharded(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    full = full.to(part(like).device)
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)


def total_norm(norms: Tensor, of: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the norm of all tensors from the `norms` [N] of the parts on this process, and whether all are finite.

    All processes must call it together if the tensors `of` which they are parts are sharded.
    """
    norm = torch.linalg.vector_norm(norms)
    sharded = next((one for one in of if is_sharded(one)), None)
    if sharded is None:
        return norm, norms.isfinite().all()
    copies = distributed.world_size() // sharded.device_mesh.size(-1)  # groups of processes that have the same parts
    norm = (distributed.all_reduce_sum(norm.to(torch.float64).square()) / copies).sqrt().to(norm.dtype)
    return norm, norm.isfinite()


def set_tensors(
    module: nn.Module,
    like: nn.Module,
    parameter: Callable[[Tensor], Tensor],
    buffer: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> None:
    """Give a module new tensors made of those of another of the same structure; what is shared there stays shared."""
    known: dict[int, tuple[Tensor, Tensor]] = {}  # with the old one, so that no new one gets its id
    for ours, theirs in zip(module.modules(), like.modules(), strict=True):
        for name, old in theirs._parameters.items():
            if old is not None and id(old) not in known:
                known[id(old)] = old, nn.Parameter(parameter(old.detach()), old.requires_grad)
            ours._parameters[name] = None if old is None else known[id(old)][1]
        for name, old in theirs._buffers.items():
            if old is not None and id(old) not in known:
                known[id(old)] = old, buffer(old)
            ours._buffers[name] = None if old is None else known[id(old)][1]
