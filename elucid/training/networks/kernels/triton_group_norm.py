"""Triton kernels of group normalisation with modulation and SiLU; `fused_norm` calls them. Needs the package triton.

A program computes one group of one image: positions are rows of a tile, the group's channels its columns. Tensors are
read with strides, so that both memory formats serve; sums are float32.
"""

import triton
import triton.language as tl

TILE = 4096
"""Elements of a tile at most, unless a single row has more."""

WARPS = 8
"""Groups of 32 threads for a tile."""


def grid_and_tile(batch: int, channels: int, groups: int, positions: int) -> tuple[tuple[int, int], int, int]:
    """Return the grid, and rows and columns of a tile, which are powers of two."""
    columns = triton.next_power_of_2(channels // groups)
    return (batch, groups), max(min(triton.next_power_of_2(positions), TILE // columns), 1), columns


@triton.jit
def _tile(start, pointer, image, group, HW, CG, s_image, s_channel, s_place, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Return offsets and mask of the tile that starts at a position."""
    rows, columns = start + tl.arange(0, ROWS), tl.arange(0, COLS)
    # 64 bits, as a batch may have more than 2^31 elements.
    base = pointer + image.to(tl.int64) * s_image + group.to(tl.int64) * CG * s_channel
    places = base + rows[:, None] * s_place + columns[None, :] * s_channel
    return places, (rows[:, None] < HW) & (columns[None, :] < CG)


@triton.jit
def _of_channels(pointer, image, group, C, CG, COLS: tl.constexpr):
    """Load a row [COLS] of the group's channels from float32 [B,C]."""
    columns = tl.arange(0, COLS)
    return tl.load(pointer + image * C + group * CG + columns, mask=columns < CG, other=0.0)


@triton.jit
def forward(
    x, added, weight, bias, scale, shift, y, means, rstds, C, HW, CG, eps, s_image, s_channel, s_place,
    ADDS: tl.constexpr, MODULATES: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """y = silu((w (z - mean) rstd + b) (1 + scale) + shift) with z = x + added; mean and rstd [B,G] are kept."""
    image, group = tl.program_id(0), tl.program_id(1)
    count = (CG * HW).to(tl.float32)
    plus = tl.zeros([COLS], tl.float32)
    if ADDS:
        plus = _of_channels(added, image, group, C, CG, COLS)
    total = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, HW, ROWS):
        places, inside = _tile(start, x, image, group, HW, CG, s_image, s_channel, s_place, ROWS, COLS)
        z = tl.load(places, mask=inside, other=0.0).to(tl.float32) + plus[None, :]
        total += tl.where(inside, z, 0.0)
    mean = tl.sum(tl.sum(total, axis=1), axis=0) / count
    total = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, HW, ROWS):  # again, as a difference of large sums would lose digits
        places, inside = _tile(start, x, image, group, HW, CG, s_image, s_channel, s_place, ROWS, COLS)
        z = tl.load(places, mask=inside, other=0.0).to(tl.float32) + plus[None, :] - mean
        total += tl.where(inside, z * z, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(tl.sum(total, axis=1), axis=0) / count + eps)
    groups = tl.num_programs(1)
    tl.store(means + image * groups + group, mean)
    tl.store(rstds + image * groups + group, rstd)
    w = _of_channels(weight, 0, group, C, CG, COLS)
    b = _of_channels(bias, 0, group, C, CG, COLS)
    if MODULATES:
        gain = 1.0 + _of_channels(scale, image, group, C, CG, COLS)
        w, b = w * gain, b * gain + _of_channels(shift, image, group, C, CG, COLS)
    for start in range(0, HW, ROWS):
        places, inside = _tile(start, x, image, group, HW, CG, s_image, s_channel, s_place, ROWS, COLS)
        z = tl.load(places, mask=inside, other=0.0).to(tl.float32) + plus[None, :]
        v = (z - mean) * rstd * w[None, :] + b[None, :]
        out, _ = _tile(start, y, image, group, HW, CG, s_image, s_channel, s_place, ROWS, COLS)
        tl.store(out, v / (1.0 + tl.exp(-v)), mask=inside)


@triton.jit
def backward(
    x, added, weight, bias, scale, shift, means, rstds, dy, dx, sums, sums_hat, dadded, C, HW, CG,
    s_image, s_channel, s_place,
    ADDS: tl.constexpr, MODULATES: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Gradient of x, and for each image and channel the sums over positions of dv, dv x_hat and dx.

    v is what SiLU is applied to, x_hat = (z - mean) rstd; the gradients of all else follow from these sums.
    """
    image, group = tl.program_id(0), tl.program_id(1)
    count, groups = (CG * HW).to(tl.float32), tl.num_programs(1)
    mean, rstd = tl.load(means + image * groups + group), tl.load(rstds + image * groups + group)
    plus = tl.zeros([COLS], tl.float32)
    if ADDS:
        plus = _of_channels(added, image, group, C, CG, COLS)
    w = _of_channels(weight, 0, group, C, CG, COLS)
    b = _of_channels(bias, 0, group, C, CG, COLS)
    if MODULATES:
        gain = 1.0 + _of_channels(scale, image, group, C, CG, COLS)
        w, b = w * gain, b * gain + _of_channels(shift, image, group, C, CG, COLS)
    total, total_hat = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, HW, ROWS):
        places, inside = _tile(start, x, image, group, HW, CG, s_image, s_channel, s_place, ROWS, COLS)
        given, _ = _tile(start, dy, image, group, HW, CG, s_image, s_channel, s_place, ROWS, COLS)
        x_hat = (tl.load(places, mask=inside, other=0.0).to(tl.float32) + plus[None, :] - mean) * rstd
        v = x_hat * w[None, :] + b[None, :]
        sigmoid = 1.0 / (1.0 + tl.exp(-v))
        dv = tl.load(given, mask=inside, other=0.0).to(tl.float32) * sigmoid * (1.0 + v * (1.0 - sigmoid))
        total += dv
        total_hat += tl.where(inside, dv * x_hat, 0.0)
    of_dv, of_dv_hat = tl.sum(total, axis=0), tl.sum(total_hat, axis=0)
    columns = tl.arange(0, COLS)
    own, there = image * C + group * CG + columns, columns < CG
    tl.store(sums + own, of_dv, mask=there)
    tl.store(sums_hat + own, of_dv_hat, mask=there)
    centre, slope = tl.sum(w * of_dv, axis=0) / count, tl.sum(w * of_dv_hat, axis=0) / count
    total = tl.zeros([ROWS, COLS], tl.float32)
    for start in range(0, HW, ROWS):
        places, inside = _tile(start, x, image, group, HW, CG, s_image, s_channel, s_place, ROWS, COLS)
        given, _ = _tile(start, dy, image, group, HW, CG, s_image, s_channel, s_place, ROWS, COLS)
        x_hat = (tl.load(places, mask=inside, other=0.0).to(tl.float32) + plus[None, :] - mean) * rstd
        v = x_hat * w[None, :] + b[None, :]
        sigmoid = 1.0 / (1.0 + tl.exp(-v))
        dv = tl.load(given, mask=inside, other=0.0).to(tl.float32) * sigmoid * (1.0 + v * (1.0 - sigmoid))
        dz = rstd * (dv * w[None, :] - centre - x_hat * slope)
        out, _ = _tile(start, dx, image, group, HW, CG, s_image, s_channel, s_place, ROWS, COLS)
        tl.store(out, dz, mask=inside)
        total += tl.where(inside, dz, 0.0)
    if ADDS:
        tl.store(dadded + own, tl.sum(total, axis=0), mask=there)
