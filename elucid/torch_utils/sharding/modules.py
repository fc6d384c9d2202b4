"""Shards a module over all processes (FSDP2) and gives each process its part of the weights of the main one."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.sharding.parts import placed_like, set_tensors


def forget_weights(module: nn.Module) -> None:
    """Free the memory of all parameters (meta); buffers, which are small, stay."""
    set_tensors(module, module, lambda parameter: parameter.to("meta"))


def take_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by name, and leave the module without them (meta)."""
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    forget_weights(module)
    return weights


def shard(
    module: nn.Module,
    weights: dict[str, Tensor],
    regions: Iterable[nn.Module],
    device: torch.device,
    group: int,
    dtype: torch.dtype | None = None,
) -> None:
    """Shard a module in place onto `device`, each of its `regions` by itself and the rest together, in groups.

    Each `group` of processes has all parts. The module has no weights (meta); the main process has them in `weights`,
    on the host, which are used up. Each is sent whole and every process cuts out its part, so that a device holds its
    parts and one whole parameter. Regions are gathered, and so compute, in `dtype`; gradients are summed in float32.
    Raises UserError for `hidden_tensors`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    hidden = distributed.gather_objects(hidden_tensors(module))
    if any(hidden):
        names = ", ".join(sorted(set().union(*hidden)))
        raise UserError(f"`shard`: {names} must be registered as buffers, so that each process gets their numbers")
    groups = distributed.world_size() // group
    sizes = {"copies": groups, "parts": group} if groups > 1 else {"parts": group}
    mesh = init_device_mesh(device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    policy = MixedPrecisionPolicy(dtype, torch.float32 if dtype else None, cast_forward_inputs=False)
    for region in regions:
        fully_shard(region, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    module._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            full = weights.pop(name)
            full = from_main(torch.empty(full.shape, dtype=full.dtype, device=device) if full.is_meta else full, device)
            parameter.copy_(placed_like(full, parameter))
        for buffer in module.buffers():
            buffer.copy_(from_main(buffer, device))


def from_main(tensor: Tensor, device: torch.device) -> Tensor:
    """Return on all processes, on the device, the numbers that a tensor of this shape has on the main one."""
    tensor = tensor.to(device).contiguous()
    dist.broadcast(tensor, src=0)
    return tensor


def hidden_tensors(module: nn.Module) -> list[str]:
    """Return the names of tensors without numbers (meta) that are attributes, but neither parameters nor buffers."""
    return [
        f"{type(one).__name__}.{name}"
        for one in module.modules()
        for name, value in vars(one).items()
        if isinstance(value, Tensor) and value.is_meta
    ]
