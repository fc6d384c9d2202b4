"""The sum of a residual block with the biases of its convolutions, in one pass through memory on CUDA."""

import torch

from elucid.training.networks.kernels.rows import WARPS, as_rows


class FusedResidual(torch.autograd.Function):
    """(x + h + bias) factor for x and h [B,C,H,W] and bias [C]; second derivatives by torch's operations."""

    @staticmethod
    def forward(ctx, x, h, bias, factor):
        from elucid.training.networks.kernels import triton_residual as kernels

        (x, x_row), (h, h_row) = as_rows(x), as_rows(h)
        y, channels = torch.empty_like(h, memory_format=torch.channels_last), h.shape[1]
        rows, sizes = h.numel() // channels, kernels.tile(channels)
        grid = -(-rows // sizes["ROWS"]), -(-channels // sizes["COLS"])
        with torch.cuda.device_of(x):
            kernels.forward[grid](x, h, bias, y, rows, channels, x_row, h_row, factor, **sizes, num_warps=WARPS)
        ctx.factor, ctx.dtype = factor, bias.dtype
        return y

    @staticmethod
    def backward(ctx, dy):
        if torch.is_grad_enabled():
            dx = dy * ctx.factor
            return dx, dx, dx.float().sum(dim=(0, 2, 3)).to(ctx.dtype), None
        from elucid.training.networks.kernels import triton_residual as kernels

        dy, row = as_rows(dy)
        channels, stores = dy.shape[1], ctx.factor != 1
        rows, sizes = dy.numel() // channels, kernels.tile(channels)
        dx = torch.empty_like(dy, memory_format=torch.channels_last) if stores else dy
        programs = -(-rows // (sizes["ROWS"] * kernels.STEPS))
        sums = torch.empty(programs, channels, device=dy.device)
        with torch.cuda.device_of(dy):
            kernels.backward[programs, -(-channels // sizes["COLS"])](
                *(dy, dx, sums, rows, channels, row, ctx.factor, stores),
                **{**sizes, "STEPS": kernels.STEPS, "num_warps": WARPS},
            )
        return dx, dx, sums.sum(dim=0).to(ctx.dtype), None
