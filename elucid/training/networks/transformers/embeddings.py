"""Embeddings of transformers: time, labels, and the fixed tables of positions."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from elucid.training.networks.layers import Init, Linear, Weighted, zeros


def normal(deviation: float) -> Init:
    """N(0, deviation^2)."""
    return partial(_normal, deviation)


def _normal(deviation: float, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return torch.randn(shape) * deviation


class TimeEmbedder(nn.Module):
    """c_noise [B] -> [B,width]: cosines and sines of `features`/2 frequencies 1..1/period, then two linear maps.

    Frequencies are geometric without the last, as in Ho et al. 2020; an odd number of features ends with a zero.
    """

    constant_buffers = True

    def __init__(self, width: int, period: float = 10000.0, features: int = 256):
        super().__init__()
        self.period, self.features = period, features
        self.register_buffer("frequencies", torch.empty(features // 2), persistent=False)
        first, last = (Linear(n_in, width, init=normal(0.02)) for n_in in (features, width))
        self.mlp = nn.Sequential(first, nn.SiLU(), last)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        half = len(self.frequencies)
        self.frequencies.copy_(torch.exp(-math.log(self.period) / half * torch.arange(half, dtype=torch.float32)))

    def waves(self, values: Tensor) -> Tensor:
        """Return cosines and sines of values [B], [B,features]."""
        angles = values.outer(self.frequencies.to(values.dtype))
        return nn.functional.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, self.features % 2))

    def forward(self, c_noise: Tensor) -> Tensor:
        return self.mlp(self.waves(c_noise))


class LabelTable(Weighted):
    """labels [B,classes] -> [B,width]: the rows of a table, weighted by the labels; a one-hot label picks one.

    With `null` the table has one more row for no class, weighted by what the labels lack to a sum of 1.
    """

    casts_weights = True

    def __init__(self, classes: int, width: int, null: bool):
        super().__init__((classes + null, width), (1, width), False, normal(0.02), zeros())
        self.null = null

    def forward(self, labels: Tensor) -> Tensor:
        if self.null:
            labels = torch.cat([labels, 1 - labels.sum(dim=1, keepdim=True)], dim=1)
        return labels @ self.weight.to(labels.dtype)


class LabelEmbedder(nn.Module):
    """The table of labels under the name that it has in public checkpoints."""

    def __init__(self, classes: int, width: int, null: bool = True):
        super().__init__()
        self.embedding_table = LabelTable(classes, width, null)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


def sine_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Return positions [N,width] of a grid's tokens: sine and cosine of the column, then those of the row.

    Vaswani et al. 2017 in two dimensions: width/4 frequencies 1..1/10000 without the last; float64.
    """
    rows, columns = _rows_and_columns(grid)
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    waves = [wave(axis.outer(frequencies)) for axis in (columns, rows) for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1)


def rotary_angles(grid: tuple[int, int], width: int, span: float | None = None) -> Tensor:
    """Return the angles [N,width/2] by which neighbouring channels of a grid's tokens are rotated; float64.

    Half of the width/2 pairs turn with the row, half with the column, by width/4 frequencies 1..1/10000 without the
    last. Without `span`, positions are integers and the row's pairs come first (as in EVA-02, Fang et al. 2023). With
    it, each axis is stretched to 0..span and the pairs of column and row take turns (DDT, Wang et al. 2025).
    """
    rows, columns = _rows_and_columns(grid)
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    if span is None:
        return torch.cat([rows.outer(frequencies), columns.outer(frequencies)], dim=1)
    height, length = (max(side - 1, 1) for side in grid)
    axes = (columns * (span / length)).outer(frequencies), (rows * (span / height)).outer(frequencies)
    return torch.stack(axes, dim=2).flatten(1)


def _rows_and_columns(grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return row and column of each token [N], row by row."""
    axes = (torch.arange(side, dtype=torch.float64, device="cpu") for side in grid)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    return rows.flatten(), columns.flatten()


class Positions(nn.Module):
    """A fixed table of sine positions [1,N,width], added to tokens [B,N,width]."""

    constant_buffers = casts_weights = True

    def __init__(self, grid: tuple[int, int], width: int):
        super().__init__()
        self.grid = grid
        self.register_buffer("table", torch.empty(1, math.prod(grid), width), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.table.copy_(sine_positions(self.grid, self.table.shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table.to(x.dtype)


class Rotary(nn.Module):
    """Cosines and sines of the rotary angles of a grid, each [N,D/2], after those of `extra` tokens without a place.

    `rotary(extra)` leaves out all but the last `extra` of these.
    """

    constant_buffers = True

    def __init__(self, grid: tuple[int, int], head_width: int, extra: int = 0, span: float | None = None):
        super().__init__()
        self.grid, self.extra, self.span = grid, extra, span
        shape = extra + math.prod(grid), head_width // 2
        self.register_buffer("cos", torch.empty(shape), persistent=False)
        self.register_buffer("sin", torch.empty(shape), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        angles = rotary_angles(self.grid, 2 * self.cos.shape[1], self.span)
        angles = torch.cat([angles.new_zeros(self.extra, angles.shape[1]), angles])
        self.cos.copy_(angles.cos())
        self.sin.copy_(angles.sin())

    def forward(self, extra: int = 0) -> tuple[Tensor, Tensor]:
        first = self.extra - extra
        return self.cos[first:], self.sin[first:]
