"""How augmentations move pixels: exact turns and shifts, and clean resampling by an affine map.

Coordinates are pixels from the image's centre, x right and y down; matrices map a place in the output to its source.
Outside the image lies its reflection, without end.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The orthogonal low-pass of the wavelet sym6 (Daubechies, Ten Lectures on Wavelets): its even shifts are orthonormal,
# so enlarging by 2 and reducing with the same filter gives the image back. Its mass is centred on tap CENTRE.
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
CENTRE = 5


def reflect(index, size: int):
    """Index of the pixel that an index outside 0 ... size-1 mirrors, border pixels not doubled; ints of any array."""
    return (size - 1) - abs(index % max(2 * size - 2, 1) - (size - 1))


def turn(images: Tensor, quarters: Tensor) -> Tensor:
    """Images [B,C,H,W] turned about the centre, against the clock, by `quarters` [B] of a circle.

    Pixels are copied; where one side is odd and the other even, the centre of a quarter turn is half a pixel off.
    """
    height, width = images.shape[2:]
    # Twice the distance from the centre, for that is a whole number.
    y = 2 * torch.arange(height, device=images.device)[:, None] - (height - 1)
    x = 2 * torch.arange(width, device=images.device) - (width - 1)
    quarters = quarters.long()[:, None, None]
    cos, sin = (quarters == 0).long() - (quarters == 2).long(), (quarters == 1).long() - (quarters == 3).long()
    return _copy(images, (cos * y + sin * x + height - 1) // 2, (cos * x - sin * y + width - 1) // 2)


def shift(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Images [B,C,H,W] moved by whole pixels `right` [B] and `down` [B]."""
    y = torch.arange(images.shape[2], device=images.device)[:, None] - down.long()[:, None, None]
    x = torch.arange(images.shape[3], device=images.device) - right.long()[:, None, None]
    return _copy(images, y, x)


def _copy(images: Tensor, source_y: Tensor, source_x: Tensor) -> Tensor:
    height, width = images.shape[2:]
    source = reflect(source_y, height) * width + reflect(source_x, width)
    source = source.flatten(1)[:, None, :].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, source).reshape(images.shape)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Matrices [B,3,3] that multiply coordinates by x [B] and y [B]."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def rotation(angle: Tensor) -> Tensor:
    """Matrices [B,3,3] that turn coordinates by angle [B] in radians, from x towards y."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Matrices [B,3,3] that add x [B] and y [B] to coordinates."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([one, zero, x, zero, one, y, zero, zero, one], dim=1).reshape(-1, 3, 3)


def resample(images: Tensor, source: Tensor) -> Tensor:
    """Images [B,C,H,W] moved by `source` [B,3,3] without aliasing (Karras et al. 2020, appendix B.2).

    Enlarge by 2 with the low-pass, look up bilinearly, reduce by 2 with the low-pass. Identities are copied bit by bit.
    """
    moved = (source != torch.eye(3, device=source.device)).flatten(1).any(dim=1).nonzero()[:, 0]
    if len(moved) == 0:
        return images
    if len(moved) == len(images):
        return _resample(images, source)
    return images.index_copy(0, moved, _resample(images[moved], source[moved]))


def _resample(images: Tensor, source: Tensor) -> Tensor:
    height, width = images.shape[2:]
    on = {"dtype": images.dtype, "device": images.device}
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], **on)
    # The reduction looks 3 pixels beyond the image, so the look-up goes as far as the map takes that frame.
    reach = ((source[:, :2, :2].abs() @ (centre + 3)) + source[:, :2, 2].abs()).amax(dim=0) - centre + 1
    farthest = 2 * max(height, width)  # bounds the memory; only a wild scale_std comes there
    margin_x, margin_y = (min(max(math.ceil(value), 0), farthest) for value in reach.tolist())
    up_x, up_y = enlarging(width, margin_x).to(**on), enlarging(height, margin_y).to(**on)
    down_x, down_y = reducing(width).to(**on), reducing(height).to(**on)

    large = up_y @ (images @ up_x.T)
    x = torch.arange(2 * width + 10, **on) / 2 - 2.5 - centre[0]
    y = torch.arange(2 * height + 10, **on)[:, None] / 2 - 2.5 - centre[1]
    map_x, map_y = source[:, :2, :, None, None].unbind(dim=1)
    source_x = map_x[:, 0] * x + map_x[:, 1] * y + map_x[:, 2]
    source_y = map_y[:, 0] * x + map_y[:, 1] * y + map_y[:, 2]
    # Sample j of `large` lies at pixel j/2 - margin; grid_sample calls its first sample -1 and its last 1.
    grid = torch.stack([(4 * source_x - 1) / (large.shape[3] - 1), (4 * source_y - 1) / (large.shape[2] - 1)], dim=3)
    looked_up = F.grid_sample(large, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return down_y @ (looked_up @ down_x.T)


@lru_cache(maxsize=256)
def enlarging(size: int, margin: int) -> Tensor:
    """Matrix [2(size + 2 margin), size]: reflect a row by `margin` pixels at either end and enlarge it by 2.

    Sample j of the result lies at pixel j/2 - margin. Both steps in one product, which costs less than a convolution.
    """
    taps = np.array(SYM6) * math.sqrt(2)  # to the sum 2, as every second sample is a zero
    matrix = np.zeros((2 * (size + 2 * margin), size), dtype=np.float32)
    sample = np.arange(len(matrix))
    for tap, value in enumerate(taps):
        place = sample - 2 * margin + CENTRE - tap
        even = place % 2 == 0
        np.add.at(matrix, (sample[even], reflect(place[even] // 2, size)), value)
    return torch.from_numpy(matrix)


@lru_cache(maxsize=64)
def reducing(size: int) -> Tensor:
    """Matrix [size, 2 size + 10]: reduce by 2 a row whose sample j lies at pixel j/2 - 2.5."""
    taps = np.array(SYM6) / math.sqrt(2)  # to the sum 1
    matrix = np.zeros((size, 2 * size + 10), dtype=np.float32)
    for tap, value in enumerate(taps):
        matrix[np.arange(size), 2 * np.arange(size) + tap] = value
    return torch.from_numpy(matrix)
