"""Triton kernels of the sum of a residual block with its bias and scale; `fused_residual` calls them.

Images are rows of channels, [rows, C]: channels are last in memory.
"""

import triton
import triton.language as tl

from elucid.training.networks.kernels.rows import TILE, columns_of_tile

STEPS = 8
"""Tiles whose gradients are added up by one program."""


def tile(channels: int) -> dict[str, int]:
    """Return rows and columns of a tile, as constants of the kernels."""
    columns = columns_of_tile(channels)
    return {"COLS": columns, "ROWS": TILE // columns}


@triton.jit
def forward(x, h, bias, y, rows, C, s_x, s_h, factor, COLS: tl.constexpr, ROWS: tl.constexpr):
    """y = (x + h + bias) factor."""
    place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = (place[:, None] < rows) & (columns[None, :] < C)
    total = tl.load(x + place[:, None] * s_x + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    total += tl.load(h + place[:, None] * s_h + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
    tl.store(y + place[:, None] * C + columns[None, :], total * factor, mask=inside)


@triton.jit
def backward(
    dy,
    dx,
    sums,
    rows,
    C,
    s_dy,
    factor,
    STORES: tl.constexpr,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
):
    """dx = dy factor, and its sums over the rows of a program, float32 [programs, C]."""
    program = tl.program_id(0)
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    total = tl.zeros([ROWS, COLS], tl.float32)
    for step in range(STEPS):
        place = (program.to(tl.int64) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (place[:, None] < rows) & (columns[None, :] < C)
        given = tl.load(dy + place[:, None] * s_dy + columns[None, :], mask=inside, other=0.0).to(tl.float32) * factor
        total += given
        if STORES:
            tl.store(dx + place[:, None] * C + columns[None, :], given, mask=inside)
    tl.store(sums + program * C + columns, tl.sum(total, axis=0), mask=columns < C)
