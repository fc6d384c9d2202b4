"""Group normalisation, modulation and SiLU: by kernels that fuse them on CUDA, or by torch's operations."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.kernels.rows import WARPS, as_rows, runs_fused


def norm_silu(
    norm: nn.Module,
    x: Tensor,
    added: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    before: Tensor | None = None,
) -> Tensor:
    """silu(norm(x + added + before) (1 + scale) + shift) for x [B,C,H,W], `before` [C] and others [B,C,1,1].

    Scale and shift go together.
    """
    if norm.fused and runs_fused(x):
        return norm(x, added, before, scale, shift, activates=True)  # as a module, so that its weights are seen in use
    x = x if before is None else x + before[:, None, None]
    h = norm(x if added is None else x + added)
    return F.silu(h if scale is None else torch.addcmul(shift, h, scale + 1))


def by_torch(x, added, before, weight, bias, scale, shift, groups: int, eps: float, activates: bool) -> Tensor:
    """The same by torch's operations, in float32: what the kernels are measured by, and their second derivatives."""
    z = x.float() if added is None else x.float() + added.float()
    z = z if before is None else z + before.float()[:, None, None]
    h = F.group_norm(z, groups, weight.float(), bias.float(), eps)
    v = h if scale is None else h * (1 + scale.float()) + shift.float()
    return (F.silu(v) if activates else v).to(x.dtype)


class FusedNorm(torch.autograd.Function):
    """Forward and backward pass by the kernels of `triton_group_norm`; second derivatives by torch's operations."""

    @staticmethod
    def forward(ctx, x, added, before, weight, bias, scale, shift, groups, eps, activates):
        from elucid.training.networks.kernels import triton_group_norm as kernels

        x, row = as_rows(x)
        batch, channels = x.shape[:2]
        positions = x.shape[2] * x.shape[3]
        sizes = kernels.tile(channels, positions)
        parts = kernels.chunks(positions, sizes)
        y = torch.empty_like(x, memory_format=torch.channels_last)
        means, squares = torch.empty(2, batch, parts, channels, device=x.device)
        factors = torch.empty(5, batch, channels, device=x.device)
        added, (scale, shift) = _strided(added)[0], _strided(scale, shift)
        columns = -(-channels // sizes["COLS"])
        how = {"num_warps": WARPS}
        with torch.cuda.device_of(x):
            kernels.statistics[parts, columns, batch](x, means, squares, channels, positions, row, **sizes, **how)
            kernels.coefficients[groups, batch](
                *(means, squares, *(x if one is None else one for one in (added, before)), weight, bias),
                *(x if one is None else one for one in (scale, shift)),
                *(factors, channels, channels // groups, positions, eps, *(_step(one) for one in (added, scale))),
                *(parts, sizes["ROWS"] * sizes["STEPS"]),
                **{"ADDS": added is not None, "BIASES": before is not None, "MODULATES": scale is not None},
                **_of_group(parts, channels // groups),
            )
            _by_tile(kernels.normalise, x, sizes)(x, factors, y, channels, positions, row, activates)
        ctx.save_for_backward(x, added, before, weight, bias, scale, shift, factors)
        ctx.how = groups, eps, activates
        return y

    @staticmethod
    def backward(ctx, dy):
        *given, factors = ctx.saved_tensors
        groups, eps, activates = ctx.how
        if torch.is_grad_enabled():
            wanted = [one for one, needed in zip(given, ctx.needs_input_grad, strict=False) if needed]
            made = by_torch(*given, groups, eps, activates)
            found = iter(torch.autograd.grad(made, wanted, dy, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:7]), None, None, None
        from elucid.training.networks.kernels import triton_group_norm as kernels

        x, added, before, weight, bias, scale, shift = given
        (x, row), (dy, dy_row) = as_rows(x), as_rows(dy)
        batch, channels = x.shape[:2]
        positions = x.shape[2] * x.shape[3]
        sizes = kernels.tile(channels, positions)
        parts = kernels.chunks(positions, sizes)
        columns = -(-channels // sizes["COLS"])
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        sums, back = (torch.empty(*shape, channels, device=x.device) for shape in ((2, batch, parts), (5, batch)))
        like = {"dtype": x.dtype if scale is None else scale.dtype, "device": x.device}
        dscale, dshift = torch.empty(2, batch, 0 if scale is None else channels, 1, 1, **like)
        how = {"ACTIVATES": activates, "num_warps": WARPS}
        with torch.cuda.device_of(x):
            kernels.sums[parts, columns, batch](x, factors, dy, sums, channels, positions, row, dy_row, **sizes, **how)
            kernels.gradient_coefficients[groups, batch](
                *(sums, factors, weight, bias, x if scale is None else scale, back, dscale, dshift, channels),
                *(channels // groups, positions, _step(scale), parts),
                **{"MODULATES": scale is not None},
                **_of_group(parts, channels // groups),
            )
            _by_tile(kernels.gradient, x, sizes)(x, factors, back, dy, dx, channels, positions, row, dy_row, activates)
        dweight, dbias, dbefore = back[:3].sum(dim=1).to(weight.dtype)
        return (
            dx,
            None if added is None else back[2].to(added.dtype)[:, :, None, None],
            None if before is None else dbefore.to(before.dtype),
            dweight,
            dbias.to(bias.dtype),
            *((None, None) if scale is None else (dscale, dshift)),
            *(None, None, None),
        )


def _by_tile(kernel, x: Tensor, sizes: dict):
    """Return the call of a kernel for each tile of x; its last argument is ACTIVATES."""
    batch, channels = x.shape[:2]
    grid = -(-x.shape[2] * x.shape[3] // sizes["ROWS"]), -(-channels // sizes["COLS"]), batch
    constants = {name: sizes[name] for name in ("COLS", "ROWS", "EVEN")}
    return lambda *given: kernel[grid](*given, **constants, num_warps=WARPS)


def _of_group(parts: int, channels: int) -> dict[str, int]:
    """Return the constants of the kernels that combine the chunks of a group: powers of two."""
    return {"CHUNKS": 1 << (parts - 1).bit_length(), "COLS": 1 << (channels - 1).bit_length(), "num_warps": 1}


def _strided(*conditions: Tensor | None) -> list[Tensor | None]:
    """Return conditions [B,C,1,1] whose channels are adjacent, with the same distance between images."""
    given = [one for one in conditions if one is not None]
    if all(one.stride(1) == 1 and one.stride(0) == given[0].stride(0) for one in given):
        return list(conditions)
    return [None if one is None else one.contiguous() for one in conditions]


def _step(condition: Tensor | None) -> int:
    return 0 if condition is None else condition.stride(0)
