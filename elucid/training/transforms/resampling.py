"""Geometric transforms: exact rotations and shifts, and alias-free resampling by affine maps.

Coordinates are pixels from the image's centre, x right and y down. Matrices map positions in the output to the input.
The image is continued by reflection.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Orthogonal low-pass filter of the wavelet sym6 (Daubechies, Ten Lectures on Wavelets). Its even shifts are
# orthonormal, so upsampling and downsampling by 2 with the same filter restores the image. It is centred on tap CENTRE.
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
CENTRE = 5


def reflect(index, size: int):
    """Reflect indices outside 0 ... size-1 into that range, without repeating border pixels."""
    return (size - 1) - abs(index % max(2 * size - 2, 1) - (size - 1))


def turn(images: Tensor, quarters: Tensor) -> Tensor:
    """Rotate images [B,C,H,W] about the centre, counterclockwise, by `quarters` [B] quarter turns.

    Pixels are copied. If one side is odd and the other even, the centre of a quarter turn is off by half a pixel.
    """
    height, width = images.shape[2:]
    # Twice the distance from the centre, which is an integer.
    y = 2 * torch.arange(height, device=images.device)[:, None] - (height - 1)
    x = 2 * torch.arange(width, device=images.device) - (width - 1)
    quarters = quarters.long()[:, None, None]
    cos, sin = (quarters == 0).long() - (quarters == 2).long(), (quarters == 1).long() - (quarters == 3).long()
    return _copy(images, (cos * y + sin * x + height - 1) // 2, (cos * x - sin * y + width - 1) // 2)


def shift(images: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Shift images [B,C,H,W] by `right` [B] and `down` [B] whole pixels."""
    y = torch.arange(images.shape[2], device=images.device)[:, None] - down.long()[:, None, None]
    x = torch.arange(images.shape[3], device=images.device) - right.long()[:, None, None]
    return _copy(images, y, x)


def _copy(images: Tensor, source_y: Tensor, source_x: Tensor) -> Tensor:
    height, width = images.shape[2:]
    source = reflect(source_y, height) * width + reflect(source_x, width)
    source = source.flatten(1)[:, None, :].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, source).reshape(images.shape)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Return matrices [B,3,3] that scale coordinates by x [B] and y [B]."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def rotation(angle: Tensor) -> Tensor:
    """Return matrices [B,3,3] that rotate coordinates by angle [B] in radians, from x towards y."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Return matrices [B,3,3] that add x [B] and y [B] to coordinates."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([one, zero, x, zero, one, y, zero, zero, one], dim=1).reshape(-1, 3, 3)


class Resampling:
    """Resamples images [B,C,H,W] by maps `source` [B,3,3] without aliasing (Karras et al. 2020, appendix B.2).

    Upsample by 2 with the low-pass filter, sample bilinearly, downsample by 2 with the filter. Images whose map is the
    identity are copied exactly. What decides about sizes is found here, on the host: which images are `moved`, their
    maps `source`, and how many pixels beyond the image they need. Both tensors go to the device for `resample`.
    """

    def __init__(self, source: Tensor, height: int, width: int):
        source = source.cpu()
        self.count = len(source)
        self.moved = (source != torch.eye(3)).flatten(1).any(dim=1).nonzero()[:, 0]
        self.source = source[self.moved]
        self.margin = _margin(self.source, height, width) if len(self.moved) else (0, 0)

    def __call__(self, images: Tensor, source: Tensor, moved: Tensor) -> Tensor:
        """Resample images with the tensors of this object, `source` and `moved`, on the device of the images."""
        if len(moved) == 0:
            return images
        if len(moved) == self.count:
            return _resample(images, source, *self.margin)
        return images.index_copy(0, moved, _resample(images[moved], source, *self.margin))


def resample(images: Tensor, source: Tensor) -> Tensor:
    """Resample images [B,C,H,W] by maps `source` [B,3,3]; see `Resampling`."""
    plan = Resampling(source, *images.shape[2:])
    return plan(images, plan.source.to(images.device), plan.moved.to(images.device))


def _margin(source: Tensor, height: int, width: int) -> tuple[int, int]:
    """Return how many pixels beyond the image are needed, right and left, above and below."""
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    # Downsampling reads 3 pixels beyond the image, so the margin covers the image of that frame under the map.
    reach = ((source[:, :2, :2].abs() @ (centre + 3)) + source[:, :2, 2].abs()).amax(dim=0) - centre + 1
    x, y = (min(max(math.ceil(value), 0), _farthest(height, width)) for value in reach.tolist())
    return x, y


def _farthest(height: int, width: int) -> int:
    """Return the largest margin, which bounds the memory; reached only with an extreme scale_std."""
    return 2 * max(height, width)


def _resample(images: Tensor, source: Tensor, margin_x: int, margin_y: int) -> Tensor:
    height, width = images.shape[2:]
    on = {"dtype": images.dtype, "device": images.device}
    farthest = _farthest(height, width)
    up_x, up_y = _enlarging(width, margin_x, farthest, **on), _enlarging(height, margin_y, farthest, **on)
    down_x, down_y = _on_device(reducing, width, **on), _on_device(reducing, height, **on)

    large = up_y @ (images @ up_x.T)
    x = torch.arange(2 * width + 10, **on) / 2 - 2.5 - (width - 1) / 2
    y = torch.arange(2 * height + 10, **on)[:, None] / 2 - 2.5 - (height - 1) / 2
    map_x, map_y = source[:, :2, :, None, None].unbind(dim=1)
    source_x = map_x[:, 0] * x + map_x[:, 1] * y + map_x[:, 2]
    source_y = map_y[:, 0] * x + map_y[:, 1] * y + map_y[:, 2]
    # Sample j of `large` is at pixel j/2 - margin; in grid_sample the first sample is at -1 and the last at 1.
    grid = torch.stack([(4 * source_x - 1) / (large.shape[3] - 1), (4 * source_y - 1) / (large.shape[2] - 1)], dim=3)
    looked_up = F.grid_sample(large, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return down_y @ (looked_up @ down_x.T)


def _enlarging(size: int, margin: int, farthest: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return `enlarging(size, margin)` on the device: rows of the largest one, which is there after the first call."""
    largest = _on_device(enlarging, size, farthest, dtype=dtype, device=device)
    return largest[2 * (farthest - margin) :][: 2 * (size + 2 * margin)]


@lru_cache(maxsize=64)
def _on_device(make, *sizes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return make(*sizes).to(device, dtype)


def enlarging(size: int, margin: int) -> Tensor:
    """Return the matrix [2(size + 2 margin), size] that pads a row by reflection and upsamples it by 2.

    It pads by `margin` pixels at each end; sample j of the result is at pixel j/2 - margin. One product is cheaper than
    a convolution.
    """
    taps = np.array(SYM6) * math.sqrt(2)  # normalised to sum 2, as every second sample is zero
    matrix = np.zeros((2 * (size + 2 * margin), size), dtype=np.float32)
    sample = np.arange(len(matrix))
    for tap, value in enumerate(taps):
        place = sample - 2 * margin + CENTRE - tap
        even = place % 2 == 0
        np.add.at(matrix, (sample[even], reflect(place[even] // 2, size)), value)
    return torch.from_numpy(matrix)


def reducing(size: int) -> Tensor:
    """Return the matrix [size, 2 size + 10] that downsamples by 2 a row whose sample j is at pixel j/2 - 2.5."""
    taps = np.array(SYM6) / math.sqrt(2)  # normalised to sum 1
    matrix = np.zeros((size, 2 * size + 10), dtype=np.float32)
    for tap, value in enumerate(taps):
        matrix[np.arange(size), 2 * np.arange(size) + tap] = value
    return torch.from_numpy(matrix)
