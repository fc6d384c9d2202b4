"""Operations of the augmentation pipe: drawing, labels and transforms (Karras et al. 2020, appendix B).

A value is [B], or [2,B] for operations with two numbers. Value and label are zero for images that are not changed.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.training.transforms import resampling
from elucid.training.transforms.resampling import rotation, scaling, translation


@dataclass
class Draws:
    """Draws random numbers for a batch of resolution (height, width) with the host's global generator."""

    batch_size: int
    resolution: tuple[int, int]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, self.batch_size)

    def symmetric(self, *shape: int) -> Tensor:
        """Draw from the uniform distribution on [-1, 1)."""
        return torch.rand(*shape, self.batch_size) * 2 - 1

    def whole(self, count: int) -> Tensor:
        """Draw integers from 0 to count-1."""
        return torch.randint(count, [self.batch_size]).to(torch.float32)

    def keep(self, value: Tensor, probability: float) -> Tensor:
        """Keep the value of each image with this probability, else set it to zero."""
        return torch.where(torch.rand(self.batch_size) < probability, value, 0.0)


class Operation:
    """An augmentation operation: `value` draws a value, `label` converts it to a label, `read` does the inverse."""

    label_dim = 1

    def value(self, draws: Draws) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define value(draws)")

    def draw(self, draws: Draws, probability: float) -> Tensor:
        """Draw values, zero for images that are not changed."""
        return draws.keep(self.value(draws), probability)

    def label(self, value: Tensor) -> Tensor:
        """Return the label [B,label_dim] of a value."""
        return value.reshape(self.label_dim, -1).T

    def read(self, label: Tensor) -> Tensor:
        """Return the value with this label [B,label_dim]."""
        return label.T if self.label_dim > 1 else label[:, 0]


class Coin(Operation):
    """Binary value, 1 or 0."""

    def value(self, draws):
        return draws.whole(2)


class Normal(Operation):
    """Standard normal value; `std` is the strength of the value 1."""

    def __init__(self, std: float):
        self.std = std

    def value(self, draws):
        return draws.normal(self.label_dim).squeeze(0)


class Angle(Operation):
    """An angle up to `limit` times pi. The label is cos - 1, sin."""

    label_dim = 2

    def __init__(self, limit: float):
        self.limit = limit

    def value(self, draws):
        return draws.symmetric() * (math.pi * self.limit)

    def label(self, value):
        return torch.stack([value.cos() - 1, value.sin()], dim=1)

    def read(self, label):
        return torch.atan2(label[:, 1], label[:, 0] + 1)


# Exact operations on whole pixels, applied one after the other: move(images [B,C,H,W], value) -> images.


class Flip(Coin):
    """Flip along a dimension of [B,C,H,W]."""

    def __init__(self, dim: int):
        self.dim = dim

    def move(self, images: Tensor, value: Tensor) -> Tensor:
        return torch.where(value.bool()[:, None, None, None], images.flip(self.dim), images)


class RotateInt(Operation):
    """Rotation by 0 to 3 quarter turns. The labels are 00, 10, 11, 01."""

    label_dim = 2

    def value(self, draws):
        return draws.whole(4)

    def label(self, value):
        return torch.stack([(value == 1) | (value == 2), value >= 2], dim=1).to(torch.float32)

    def read(self, label):
        first, second = label.unbind(dim=1)
        return torch.where(second > 0, 3 - first, first)

    def move(self, images: Tensor, value: Tensor) -> Tensor:
        return resampling.turn(images, value)


class TranslateInt(Operation):
    """Shift by whole pixels; the maximum value 1 shifts by `limit` times the side."""

    label_dim = 2

    def __init__(self, limit: float):
        self.limit = limit

    def value(self, draws):
        height, width = draws.resolution
        most = self.limit * torch.tensor([[width], [height]])
        return (draws.symmetric(2) * most).round() / most

    def move(self, images: Tensor, value: Tensor) -> Tensor:
        x, y = value * self.limit
        # Right and up, to match the labels of the published networks.
        return resampling.shift(images, (x * images.shape[3]).round(), -(y * images.shape[2]).round())


# Affine maps, combined into one resampling per pipe: source(value, height, width) -> [B,3,3] maps positions in the
# output to the input, in pixels from the centre.


class Scale(Normal):
    """Enlarge by 2^(std * value)."""

    def source(self, value: Tensor, height: int, width: int) -> Tensor:
        factor = (-self.std * value).exp2()
        return scaling(factor, factor)


class RotateFrac(Angle):
    """Rotate counterclockwise."""

    def source(self, value: Tensor, height: int, width: int) -> Tensor:
        return rotation(value)


class Aniso(Operation):
    """Stretch by 2^(std * w) in direction r and shrink perpendicular to it; r is 0 except with `rotate_prob`.

    The label (w cos r, w sin r) is the same for (w, r) and (-w, r + pi), whose stretches are perpendicular; `read`
    returns the one with |r| <= pi/2.
    """

    label_dim = 2

    def __init__(self, std: float, rotate_prob: float):
        self.std, self.rotate_prob = std, rotate_prob

    def draw(self, draws, probability):
        stretch, angle = draws.keep(torch.stack([draws.normal(), draws.symmetric() * math.pi]), probability)
        return torch.stack([stretch, draws.keep(angle, self.rotate_prob)])

    def label(self, value):
        stretch, angle = value
        return torch.stack([stretch * angle.cos(), stretch * angle.sin()], dim=1)

    def read(self, label):
        x, y = label.unbind(dim=1)
        sign = torch.where(x < 0, -1.0, 1.0)
        return torch.stack([sign * x.hypot(y), torch.atan2(sign * y, sign * x)])

    def source(self, value: Tensor, height: int, width: int) -> Tensor:
        stretch, angle = value
        factor = (self.std * stretch).exp2()
        return rotation(-angle) @ scaling(1 / factor, factor) @ rotation(angle)


class TranslateFrac(Normal):
    """Shift right and down by std * value times the side."""

    label_dim = 2

    def source(self, value: Tensor, height: int, width: int) -> Tensor:
        x, y = value * self.std
        return translation(-x * width, -y * height)


# Colour operations, combined into one matrix per pipe: matrix(value) -> [B,4,4] multiplies (r, g, b, 1).


class Brightness(Normal):
    """Add std * value to all channels."""

    def matrix(self, value: Tensor) -> Tensor:
        matrix = torch.eye(4).repeat(len(value), 1, 1)
        matrix[:, :3, 3] = self.std * value[:, None]
        return matrix


class Contrast(Normal):
    """Multiply all channels by 2^(std * value)."""

    def matrix(self, value: Tensor) -> Tensor:
        factor = (self.std * value).exp2()
        return about_gray(factor, factor)


class LumaFlip(Coin):
    """Negate the gray component of each colour."""

    def matrix(self, value: Tensor) -> Tensor:
        return about_gray(1 - 2 * value, torch.ones_like(value))


class Hue(Angle):
    """Rotate colours about the gray axis."""

    def matrix(self, value: Tensor) -> Tensor:
        return about_gray(torch.ones_like(value), value.cos(), value.sin())


class Saturation(Normal):
    """Multiply the non-gray component of each colour by 2^(std * value)."""

    def matrix(self, value: Tensor) -> Tensor:
        return about_gray(torch.ones_like(value), (self.std * value).exp2())


def about_gray(along: Tensor, across: Tensor, turn: Tensor | float = 0.0) -> Tensor:
    """Return matrices [B,4,4] that scale the gray component of a colour by `along` [B] and the rest by `across`.

    The rest rotated by a quarter turn about the gray axis, times `turn`, is added.
    """
    on = {"device": along.device}
    gray = torch.full((3, 3), 1 / 3, **on)
    quarter = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], **on) / math.sqrt(3)
    along, across, turn = (torch.as_tensor(factor, **on).reshape(-1, 1, 1) for factor in (along, across, turn))
    matrix = torch.eye(4, **on).repeat(len(along), 1, 1)
    matrix[:, :3, :3] = along * gray + across * (torch.eye(3, **on) - gray) + turn * quarter
    return matrix


def recolour(images: Tensor, matrix: Tensor) -> Tensor:
    """Apply matrix [B,4,4] to each (r, g, b, 1) of images [B,3,H,W]; gray images [B,1,H,W] get the channel mean."""
    linear, offset = matrix[:, :3, :3], matrix[:, :3, 3:]
    if images.shape[1] == 1:
        linear, offset = linear.sum(dim=(1, 2))[:, None, None] / 3, offset.mean(dim=1, keepdim=True)
    return (linear @ images.flatten(2) + offset).reshape(images.shape)
