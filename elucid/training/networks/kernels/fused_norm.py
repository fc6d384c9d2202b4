"""Group normalisation, modulation and SiLU in one kernel on CUDA, or by torch's operations."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.attention import forward_derivatives_active

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def fuse_norms(network: nn.Module) -> None:
    """Let the network's group normalisations use the fused kernel where it can run."""
    for module in network.modules():
        if hasattr(module, "fused"):
            module.fused = True


def norm_silu(
    norm: nn.Module, x: Tensor, added: Tensor | None = None, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """silu(norm(x + added) (1 + scale) + shift) for x [B,C,H,W] and others [B,C,1,1]; scale and shift go together."""
    if norm.fused and runs_fused(x):
        return FusedNorm.apply(x, added, norm.weight, norm.bias, scale, shift, norm.groups, norm.eps)
    h = norm(x if added is None else x + added)
    return F.silu(h if scale is None else torch.addcmul(shift, h, scale + 1))


def runs_fused(x: Tensor) -> bool:
    """Return whether the kernel can compute x: on CUDA, uncompiled (a compiler fuses by itself), with triton."""
    return x.is_cuda and x.ndim == 4 and x.dtype in DTYPES and not _needs_torch() and has_triton()


def _needs_torch() -> bool:
    return torch.compiler.is_compiling() or forward_derivatives_active()


@cache
def has_triton() -> bool:
    return find_spec("triton") is not None


def by_torch(x, added, weight, bias, scale, shift, groups: int, eps: float) -> Tensor:
    """The same by torch's operations, in float32: what the kernel is measured by, and its second derivatives."""
    z = x.float() if added is None else x.float() + added.float()
    h = F.group_norm(z, groups, weight.float(), bias.float(), eps)
    return F.silu(h if scale is None else h * (1 + scale.float()) + shift.float()).to(x.dtype)


class FusedNorm(torch.autograd.Function):
    """Forward and backward pass by the kernels of `triton_group_norm`; second derivatives by torch's operations."""

    @staticmethod
    def forward(ctx, x, added, weight, bias, scale, shift, groups, eps):
        from elucid.training.networks.kernels import triton_group_norm as kernels

        x = _dense(x)
        batch, channels = x.shape[:2]
        y, positions = torch.empty_like(x), x.shape[2] * x.shape[3]
        means, rstds = (torch.empty(batch, groups, device=x.device) for _ in range(2))
        grid, rows, columns = kernels.grid_and_tile(batch, channels, groups, positions)
        how = {"ADDS": added is not None, "MODULATES": scale is not None, "ROWS": rows, "COLS": columns}
        how["num_warps"] = kernels.WARPS
        parts = _of_channels(x, added, weight, bias, scale, shift)
        sizes = channels, positions, channels // groups
        with torch.cuda.device_of(x):
            kernels.forward[grid](x, *parts, y, means, rstds, *sizes, eps, *_strides(x), **how)
        ctx.save_for_backward(x, added, weight, bias, scale, shift, means, rstds)
        ctx.groups, ctx.eps = groups, eps
        return y

    @staticmethod
    def backward(ctx, dy):
        x, added, weight, bias, scale, shift, means, rstds = ctx.saved_tensors
        given = x, added, weight, bias, scale, shift
        if torch.is_grad_enabled():
            wanted = [one for one, needed in zip(given, ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(by_torch(*given, ctx.groups, ctx.eps), wanted, dy, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:6]), None, None
        from elucid.training.networks.kernels import triton_group_norm as kernels

        batch, channels = x.shape[:2]
        dx, positions = torch.empty_like(x), x.shape[2] * x.shape[3]
        sums, sums_hat, dadded = (torch.empty(batch, channels, device=x.device) for _ in range(3))
        grid, rows, columns = kernels.grid_and_tile(batch, channels, ctx.groups, positions)
        how = {"ADDS": added is not None, "MODULATES": scale is not None, "ROWS": rows, "COLS": columns}
        how["num_warps"] = kernels.WARPS
        parts, dy = _of_channels(*given), _dense(dy, x)
        sizes = channels, positions, channels // ctx.groups
        with torch.cuda.device_of(x):
            kernels.backward[grid](x, *parts, means, rstds, dy, dx, sums, sums_hat, dadded, *sizes, *_strides(x), **how)
        return dx, *_others(given, sums, sums_hat, dadded), None, None


def _others(given, sums: Tensor, sums_hat: Tensor, dadded: Tensor):
    """Gradients of added, weight, bias, scale and shift from the sums over positions, [B,C] each."""
    _, added, weight, bias, scale, shift = given
    gain = 1 if scale is None else 1 + scale.float().flatten(1)
    yield None if added is None else dadded.reshape(added.shape).to(added.dtype)
    yield (gain * sums_hat).sum(dim=0).to(weight.dtype)
    yield (gain * sums).sum(dim=0).to(bias.dtype)
    yield None if scale is None else (weight * sums_hat + bias * sums).reshape(scale.shape).to(scale.dtype)
    yield None if shift is None else sums.reshape(shift.shape).to(shift.dtype)


def _dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Return x in one of the two memory formats, that of `like` if given."""
    if like is not None and x.stride() != like.stride():
        return torch.empty_like(like).copy_(x)
    return x if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of an image, a channel and a position, which is both row and column in the two memory formats."""
    channels, positions = x.shape[1], x.shape[2] * x.shape[3]
    whole = channels * positions
    return (whole, positions, 1) if x.is_contiguous() else (whole, 1, channels)


def _of_channels(x, added, weight, bias, scale, shift) -> tuple[Tensor, ...]:
    """Return all but x as float32 [B,C] or [C]; x stands for what is missing, which is not read."""
    each = (one if one is None else one.reshape(len(x), -1).float().contiguous() for one in (added, scale, shift))
    added, scale, shift = (x if one is None else one for one in each)
    return added, weight.float(), bias.float(), scale, shift
