"""3x3 convolutions on CPUs with half the multiplications, by Winograd's algorithm along the height."""

import platform
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.training.networks.kernels.cpu import takes_own_gradient, torchs_gradient

CHANNELS = 128
"""Channels, in and out, from which on it is faster than torch's convolution (docs/performance.md)."""
PIXELS = {True: 2048, False: 1024}
"""Likewise, pixels of all images for each thread, with gradients and without: for fewer, transforming weights costs
more than it brings."""
ROWS, TAPS, TILE = 4, 3, 6
"""Rows of the result from one tile, of a filter, and of the tile; tiles overlap by 2."""
POINTS = (0, 1, -1, 0.5, -2)
"""Where polynomials are evaluated, beside infinity: of small fractions those with the least rounding error."""


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, stride: int = 1, fast: bool = True) -> Tensor:
    """Return torch's convolution with zero padding, by Winograd's algorithm if `fast` and where that is faster."""
    if fast and stride == 1 and padding == 1 and suits(x, weight):
        return conv3x3(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=padding, stride=stride)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve x [B,C,H,W] with weight [K,C,3,3] and zero padding, for H a multiple of 4; bias [K]. Returns [B,K,H,W].

    F(4,3) of Lavin & Gray (2016, arXiv 1509.09308), along the height only: y = A^T sum_c (G g_c) * (B^T d_c) makes 4
    rows of a tile d of 6 rows and a filter g of 3. The products * are convolutions along the width, 6 of them instead
    of 4 times 3. The rounding error is about twice that of torch's convolution.
    """
    return Winograd.apply(x, weight, bias)


@lru_cache
def faster_here() -> bool:
    """Return whether torch convolves by oneDNN on x86, where it was measured; elsewhere groups may be slow."""
    return torch.backends.mkldnn.is_available() and platform.machine().lower() in ("x86_64", "amd64")


def suits(x: Tensor, weight: Tensor) -> bool:
    """Return whether `conv3x3` can convolve x with this weight, and is faster than torch if it is here at all."""
    if not takes_own_gradient(x) or x.ndim != 4 or weight.shape[2:] != (TAPS, TAPS):
        return False
    batch, _, height, width = x.shape
    enough = batch * height * width >= PIXELS[torch.is_grad_enabled()] * torch.get_num_threads()
    return enough and min(weight.shape[:2]) >= CHANNELS and height % ROWS == 0 and x.is_contiguous()


class Winograd(torch.autograd.Function):
    """The convolution and its gradients; second derivatives by torch."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return convolved(x, weight, bias)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        dx = dw = None
        if torchs_gradient(dy):
            dx, dw, _ = gradients(dy, x, weight, (1, 1), 1, (of_x, of_weight, False))
        else:
            dx = convolved(dy, weight.flip(2, 3).transpose(0, 1)) if of_x else None
            dw = weight_gradient(dy, x, weight) if of_weight else None
        return dx, dw, dy.sum((0, 2, 3)) if of_bias and ctx.has_bias else None


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`conv3x3` without gradients."""
    products = F.conv2d(tiles_of(x), kernels_of(weight), padding=(0, 1), groups=TILE)
    rows = transformed(matrices().rows.t(), products)
    if bias is not None:
        rows += bias[:, None, None]
    return rows.movedim(1, 3).flatten(2, 3).contiguous()


def weight_gradient(dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return G^T times the gradient of the convolutions along the width."""
    products = transformed(matrices().rows, tiled(dy, ROWS)).flatten(1, 2)
    kernels = kernels_of(weight)
    _, found, _ = gradients(products, tiles_of(x), kernels, (0, 1), TILE, (False, True, False))
    rows = matrices().kernels.t() @ found.view(TILE, -1)
    return rows.view(TAPS, *weight.shape[:2], TAPS).permute(1, 2, 0, 3).contiguous()


def gradients(dy: Tensor, x: Tensor, weight: Tensor, padding: tuple, groups: int, wanted: tuple) -> tuple:
    """Return torch's gradients of a convolution with respect to x, weight and bias, as far as wanted."""
    one, none = [1, 1], [0, 0]
    return torch.ops.aten.convolution_backward(
        dy, x, weight, [len(weight)], one, padding, one, False, none, groups, wanted
    )


def tiles_of(x: Tensor) -> Tensor:
    """B^T d, [B,C,H,W] -> [B,6*C,H/4,W]."""
    return transformed(matrices().tiles, tiled(F.pad(x, (0, 0, 1, 1)), TILE)).flatten(1, 2)


def kernels_of(weight: Tensor) -> Tensor:
    """G g, [K,C,3,3] -> [6*K,C,1,3]."""
    rows = weight.movedim(2, 0).reshape(TAPS, -1)
    return (matrices().kernels @ rows).view(-1, weight.shape[1], 1, TAPS)


def tiled(x: Tensor, size: int) -> Tensor:
    """[B,C,H,W] -> [B,size,C,H/4,W], tiles of so many rows that begin at every fourth."""
    return x.unfold(2, size, ROWS).movedim(-1, 1)


def transformed(matrix: Tensor, rows: Tensor) -> Tensor:
    """[M,N], [B,N,C,T,W] -> [B,M,C,T,W], or [B,N*C,T,W] -> [B,M,C,T,W]."""
    batch, size = len(rows), matrix.shape[1]
    *_, tiles, width = rows.shape
    found = torch.bmm(matrix.expand(batch, -1, -1), rows.reshape(batch, size, -1))
    return found.view(batch, len(matrix), -1, tiles, width)


class Matrices(NamedTuple):
    """A [6,4], B^T [6,6] and G [6,3]."""

    rows: Tensor
    tiles: Tensor
    kernels: Tensor


@lru_cache
def matrices() -> Matrices:
    """Values of polynomials at the points and at infinity, and interpolation from there (Toom and Cook)."""
    points = np.array(POINTS)
    others = [np.delete(points, index) for index in range(len(points))]
    rows, kernels = (np.vander(points, size, increasing=True) for size in (ROWS, TAPS))
    kernels = kernels / [[np.prod(point - other)] for point, other in zip(points, others, strict=True)]
    tiles = np.zeros((TILE, TILE))
    for row, roots in zip(tiles, [*others, points], strict=True):
        row[: len(roots) + 1] = np.poly(roots)[::-1]
    rows, kernels = (np.vstack([one, np.eye(one.shape[1])[-1]]) for one in (rows, kernels))  # at infinity
    return Matrices(*(torch.tensor(one, dtype=torch.float32, device="cpu") for one in (rows, tiles, kernels)))
