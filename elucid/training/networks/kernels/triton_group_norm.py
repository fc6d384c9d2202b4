"""Triton kernels of group normalisation with modulation and SiLU; `fused_norm` calls them. Needs the package triton.

Images are rows of channels, [B, positions, C]: channels are last in memory. No kernel needs the sums of a group while
it reads an image: `statistics` and `sums` reduce tiles of an image to one row for each chunk of its positions,
`coefficients` and `gradient_coefficients` combine the chunks of a group to factors for each image and channel, and
`normalise` and `gradient` apply these to each element. All sums are float32, and are added in a fixed order.
"""

import triton
import triton.language as tl

from elucid.training.networks.kernels.rows import TILE, columns_of_tile

CHUNKS = 8
"""Parts of an image at most that are reduced by a program each."""


def tile(channels: int, positions: int) -> dict[str, int | bool]:
    """Return rows and columns of a tile, and how many tiles a chunk has, as constants of the kernels."""
    columns = columns_of_tile(channels)
    rows = min(TILE // columns, triton.next_power_of_2(positions))
    steps = triton.cdiv(positions, rows * CHUNKS)
    even = positions % (rows * steps) == 0 and channels % columns == 0
    return {"COLS": columns, "ROWS": rows, "STEPS": steps, "EVEN": even}


def chunks(positions: int, sizes: dict) -> int:
    return triton.cdiv(positions, sizes["ROWS"] * sizes["STEPS"])


@triton.jit
def tile_of(pointer, image, row, columns, HW, C, s_row, ROWS: tl.constexpr, EVEN: tl.constexpr):
    """Return the addresses of a tile of an image [HW,C] that starts at a row, and which of them are inside."""
    rows = row + tl.arange(0, ROWS)
    # 64 bits, as a batch may have more than 2^31 elements.
    places = pointer + image.to(tl.int64) * HW * s_row + rows[:, None] * s_row + columns[None, :]
    inside = (rows[:, None] < HW) & (columns[None, :] < C)
    if EVEN:
        inside = tl.full(inside.shape, True, tl.int1)
    return places, inside


@triton.jit
def of_image(pointer, which, image, columns, B, C):
    """Load factor `which` of [.,B,C] for the channels of an image."""
    return tl.load(pointer + (which * B + image) * C + columns, mask=columns < C, other=0.0)


@triton.jit
def chunks_of(group, image, C, CG, chunks, CHUNKS: tl.constexpr, COLS: tl.constexpr):
    """Return the numbers of a group's chunks and channels, where they lie in [B,chunks,C], and which there are."""
    part, columns = tl.arange(0, CHUNKS), tl.arange(0, COLS)
    channels, there = group * CG + columns, columns < CG
    places = (image * chunks + part[:, None]) * C + channels[None, :]
    return part, channels, there, places, (part[:, None] < chunks) & there[None, :]


@triton.jit
def slope(v, dy, ACTIVATES: tl.constexpr):
    """Return the gradient of v from that of silu(v), or from that of v."""
    if ACTIVATES:
        sigmoid = 1.0 / (1.0 + tl.exp(-v))
        dy = dy * sigmoid * (1.0 + v * (1.0 - sigmoid))
    return dy


@triton.jit
def statistics(
    x, means, squares, C, HW, s_row,
    COLS: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Mean of each channel over a chunk's positions, and the sum of squared distances from it: [B,chunks,C] each."""
    chunk, image = tl.program_id(0), tl.program_id(2)
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    start = chunk * ROWS * STEPS
    # Distances from a value among them, as a difference of large sums would lose digits.
    row = x + (image.to(tl.int64) * HW + start) * s_row
    about = tl.load(row + columns, mask=columns < C, other=0.0).to(tl.float32)
    total, square = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
    for step in tl.range(STEPS, num_stages=3):
        places, inside = tile_of(x, image, start + step * ROWS, columns, HW, C, s_row, ROWS, EVEN)
        values = tl.load(places, mask=inside, other=0.0).to(tl.float32) - about[None, :]
        values = tl.where(inside, values, 0.0)
        total += values
        square += values * values
    count = tl.minimum(HW - start, ROWS * STEPS)
    summed = tl.sum(total, axis=0)
    own = (image * tl.num_programs(0) + chunk) * C + columns
    tl.store(means + own, about + summed / count, mask=columns < C)
    tl.store(squares + own, tl.sum(square, axis=0) - summed * summed / count, mask=columns < C)


@triton.jit
def coefficients(
    means, squares, added, before, weight, bias, scale, shift, factors,
    C, CG, HW, eps, s_added, s_scale, chunks, per_chunk,
    ADDS: tl.constexpr, BIASES: tl.constexpr, MODULATES: tl.constexpr, CHUNKS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Factors [5,B,C]: rstd, -mean rstd, and v = x factor2 + factor3; last the sum of x_hat over a channel's positions.

    x_hat = x factor0 + factor1 = (x + added + before - mean) rstd, v = (w x_hat + b) (1 + scale) + shift.
    """
    group, image, B = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    part, channels, there, places, inside = chunks_of(group, image, C, CG, chunks, CHUNKS, COLS)
    counts = tl.where(inside, tl.minimum(HW - part * per_chunk, per_chunk)[:, None].to(tl.float32), 0.0)
    plus = tl.zeros([COLS], tl.float32)
    if ADDS:
        plus += tl.load(added + image * s_added + channels, mask=there, other=0.0).to(tl.float32)
    if BIASES:
        plus += tl.load(before + channels, mask=there, other=0.0).to(tl.float32)
    mean = tl.load(means + places, mask=inside, other=0.0) + plus[None, :]
    square = tl.load(squares + places, mask=inside, other=0.0)
    of_channel = tl.sum(counts * mean, axis=0)
    centre = tl.sum(of_channel, axis=0) / (HW * CG)
    square += counts * (mean - centre) * (mean - centre)
    rstd = 1.0 / tl.sqrt(tl.sum(tl.sum(square, axis=1), axis=0) / (HW * CG) + eps)
    gain = tl.load(weight + channels, mask=there, other=0.0).to(tl.float32)
    offset = tl.load(bias + channels, mask=there, other=0.0).to(tl.float32)
    if MODULATES:
        more = 1.0 + tl.load(scale + image * s_scale + channels, mask=there, other=0.0).to(tl.float32)
        gain = gain * more
        offset = offset * more + tl.load(shift + image * s_scale + channels, mask=there, other=0.0).to(tl.float32)
    own = factors + image * C + channels
    moved = (plus - centre) * rstd
    tl.store(own, tl.zeros([COLS], tl.float32) + rstd, mask=there)
    tl.store(own + B * C, moved, mask=there)
    tl.store(own + 2 * B * C, gain * rstd, mask=there)
    tl.store(own + 3 * B * C, gain * moved + offset, mask=there)
    tl.store(own + 4 * B * C, (of_channel - HW * centre) * rstd, mask=there)


@triton.jit
def normalise(
    x, factors, y, C, HW, s_row,
    ACTIVATES: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """y = silu(v), or v."""
    image, B = tl.program_id(2), tl.num_programs(2)
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    start = tl.program_id(0) * ROWS
    places, inside = tile_of(x, image, start, columns, HW, C, s_row, ROWS, EVEN)
    gain, offset = of_image(factors, 2, image, columns, B, C), of_image(factors, 3, image, columns, B, C)
    v = tl.load(places, mask=inside, other=0.0).to(tl.float32) * gain[None, :] + offset[None, :]
    if ACTIVATES:
        v = v / (1.0 + tl.exp(-v))
    places, inside = tile_of(y, image, start, columns, HW, C, C, ROWS, EVEN)
    tl.store(places, v, mask=inside)


@triton.jit
def sums(
    x, factors, dy, found, C, HW, s_row, s_dy,
    ACTIVATES: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Sums of dv and of dv x_hat over a chunk's positions, [2,B,chunks,C]; dv is the gradient of v."""
    chunk, image, B = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    rstd, moved = of_image(factors, 0, image, columns, B, C), of_image(factors, 1, image, columns, B, C)
    gain, offset = of_image(factors, 2, image, columns, B, C), of_image(factors, 3, image, columns, B, C)
    total, total_hat = tl.zeros([ROWS, COLS], tl.float32), tl.zeros([ROWS, COLS], tl.float32)
    for step in tl.range(STEPS, num_stages=3):
        start = (chunk * STEPS + step) * ROWS
        places, inside = tile_of(x, image, start, columns, HW, C, s_row, ROWS, EVEN)
        given, _ = tile_of(dy, image, start, columns, HW, C, s_dy, ROWS, EVEN)
        values = tl.load(places, mask=inside, other=0.0).to(tl.float32)
        dv = tl.load(given, mask=inside, other=0.0).to(tl.float32)
        dv = slope(values * gain[None, :] + offset[None, :], dv, ACTIVATES)
        total += dv
        total_hat += dv * (values * rstd[None, :] + moved[None, :])
    own = found + (image * tl.num_programs(0) + chunk) * C + columns
    tl.store(own, tl.sum(total, axis=0), mask=columns < C)
    tl.store(own + B * tl.num_programs(0) * C, tl.sum(total_hat, axis=0), mask=columns < C)


@triton.jit
def gradient_coefficients(
    found, factors, weight, bias, scale, back, dscale, dshift, C, CG, HW, s_scale, chunks,
    MODULATES: tl.constexpr, CHUNKS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """What an image adds to the gradients of weight and bias, and to that of all that is added to x: back[0:3].

    back[3:5] are the terms of dx = dv factor2 - back3 - x_hat back4; back is [5,B,C]. Also the gradients of scale and
    shift.
    """
    group, image, B = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    part, channels, there, places, inside = chunks_of(group, image, C, CG, chunks, CHUNKS, COLS)
    total = tl.sum(tl.load(found + places, mask=inside, other=0.0), axis=0)
    total_hat = tl.sum(tl.load(found + B * chunks * C + places, mask=inside, other=0.0), axis=0)
    own = image * C + channels
    gain = tl.load(factors + 2 * B * C + own, mask=there, other=0.0)
    of_hat = tl.load(factors + 4 * B * C + own, mask=there, other=0.0)
    centre = tl.sum(gain * total, axis=0) / (HW * CG)
    tilt = tl.sum(gain * total_hat, axis=0) / (HW * CG)
    tl.store(back + 2 * B * C + own, gain * total - HW * centre - tilt * of_hat, mask=there)
    tl.store(back + 3 * B * C + own, tl.zeros([COLS], tl.float32) + centre, mask=there)
    tl.store(back + 4 * B * C + own, tl.zeros([COLS], tl.float32) + tilt, mask=there)
    if MODULATES:
        w = tl.load(weight + channels, mask=there, other=0.0).to(tl.float32)
        b = tl.load(bias + channels, mask=there, other=0.0).to(tl.float32)
        tl.store(dscale + own, w * total_hat + b * total, mask=there)
        tl.store(dshift + own, total, mask=there)
        more = 1.0 + tl.load(scale + image * s_scale + channels, mask=there, other=0.0).to(tl.float32)
        total, total_hat = total * more, total_hat * more
    tl.store(back + own, total_hat, mask=there)
    tl.store(back + B * C + own, total, mask=there)


@triton.jit
def gradient(
    x, factors, back, dy, dx, C, HW, s_row, s_dy,
    ACTIVATES: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """dx = dv factor2 - back3 - x_hat back4."""
    image, B = tl.program_id(2), tl.num_programs(2)
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    start = tl.program_id(0) * ROWS
    rstd, moved = of_image(factors, 0, image, columns, B, C), of_image(factors, 1, image, columns, B, C)
    gain, offset = of_image(factors, 2, image, columns, B, C), of_image(factors, 3, image, columns, B, C)
    centre, tilt = of_image(back, 3, image, columns, B, C), of_image(back, 4, image, columns, B, C)
    places, inside = tile_of(x, image, start, columns, HW, C, s_row, ROWS, EVEN)
    given, _ = tile_of(dy, image, start, columns, HW, C, s_dy, ROWS, EVEN)
    values = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    dv = tl.load(given, mask=inside, other=0.0).to(tl.float32)
    dv = slope(values * gain[None, :] + offset[None, :], dv, ACTIVATES)
    hat = values * rstd[None, :] + moved[None, :]
    places, inside = tile_of(dx, image, start, columns, HW, C, C, ROWS, EVEN)
    tl.store(places, dv * gain[None, :] - centre[None, :] - hat * tilt[None, :], mask=inside)
