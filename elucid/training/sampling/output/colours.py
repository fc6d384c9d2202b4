"""Pictures of arrays: each channel through a colour map, beside one another; spectra as curves."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.base import Encoder

MOST_CHANNELS = 8
"""Channels that a picture shows unless others are chosen."""

WIDTH = 2.5
"""Deviations below and above the mean that the colours cover."""

CURVE_HEIGHT = 32
"""Height in pixels of the curve of a channel [1,W]."""

COLOURS: dict[str, list[tuple[int, int, int]]] = {
    "gray": [(0, 0, 0), (255, 255, 255)],
    "heat": [(0, 0, 20), (90, 10, 110), (200, 55, 70), (250, 160, 40), (255, 250, 200)],
    "balance": [(20, 50, 130), (100, 160, 215), (245, 245, 245), (225, 130, 100), (130, 20, 40)],
}
"""Colours of maps, evenly spaced from the lowest value to the highest; others are matplotlib's, if it is installed."""


def colour_table(name: str) -> np.ndarray:
    """Return the u8[256,3] of a colour map by its name. Raises UserError if it is not known."""
    if name in COLOURS:
        points = np.array(COLOURS[name], dtype=np.float64)
        places = np.linspace(0, 1, len(points))
        columns = [np.interp(np.linspace(0, 1, 256), places, points[:, channel]) for channel in range(3)]
        return np.rint(np.stack(columns, axis=1)).astype(np.uint8)
    try:
        from matplotlib import colormaps
    except ImportError as error:
        known = ", ".join(COLOURS)
        raise UserError(f"`colormap`={name} is none of {known}; for matplotlib's, pip install matplotlib") from error
    if name not in colormaps:
        raise UserError(f"`colormap`={name} is neither {', '.join(COLOURS)} nor one of matplotlib's; see its names")
    return np.rint(255 * colormaps[name](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)


def pictures_of(
    samples: Tensor, encoder: Encoder, colormap: str = "gray", channels: Sequence[int] | None = None
) -> Tensor:
    """Return pictures u8[N,3,h,w] of arrays [N,C,H,W]: `channels` in a near-square, each from mean -2.5 to +2.5 std.

    Channels of height 1 are curves. Pictures u8[N,1 or 3,H,W] of other encoders are returned as they are. Raises
    UserError for channels that the arrays do not have, and for unknown colour maps.
    """
    if encoder.pictures:
        return samples
    count, total, _, width = samples.shape
    shown = list(range(min(total, MOST_CHANNELS))) if channels is None else list(channels)
    require_channels(shown, total)
    values = _in_range(encoder.encode(samples.cpu())[:, shown], encoder)
    if values.shape[2] == 1:
        values = _curves(values)
    table = torch.from_numpy(colour_table(colormap))
    coloured = table[values.mul(255).round().long()].movedim(-1, 2)  # [N,c,3,H,W]
    return _side_by_side(coloured)


def require_channels(shown: Sequence[int], total: int) -> None:
    """Raise UserError unless there are channels to show, all of them from 0 to total - 1."""
    if not shown or not all(0 <= one < total for one in shown):
        raise UserError(f"`channels`={','.join(map(str, shown))} must be from 0 to {total - 1}")


def _in_range(x: Tensor, encoder: Encoder) -> Tensor:
    """Return normalised values as 0 to 1, whose deviation is `final_std` of the encoder, 0.5 if unknown."""
    statistics = getattr(encoder, "statistics", None)
    deviation = 0.5 if statistics is None else statistics.final_std
    return (x / (2 * WIDTH * deviation) + 0.5).nan_to_num(0.5).clamp(0, 1)


def _curves(values: Tensor) -> Tensor:
    """Return [N,c,CURVE_HEIGHT,W], 1 on the curve and 0 elsewhere, of values [N,c,1,W] from 0 to 1."""
    rows = torch.arange(CURVE_HEIGHT - 1, -1, -1).reshape(-1, 1)
    heights = (values * (CURVE_HEIGHT - 1)).round()
    before = torch.cat([heights[..., :1], heights[..., :-1]], dim=3)  # so that steep parts are joined
    low, high = torch.minimum(heights, before), torch.maximum(heights, before)
    return ((rows >= low) & (rows <= high)).float()


def _side_by_side(channels: Tensor) -> Tensor:
    """Arrange [N,c,3,H,W] as [N,3,rows*H,columns*W], with white lines between channels."""
    count, number, _, height, width = channels.shape
    columns = math.ceil(math.sqrt(number * height / width)) if height > 1 else 1
    columns = min(max(columns, 1), number)
    rows = -(-number // columns)
    padded = F.pad(channels, (0, 1, 0, 1), value=255)
    blank = padded.new_full((count, rows * columns - number, *padded.shape[2:]), 255)
    cells = torch.cat([padded, blank], dim=1).reshape(count, rows, columns, 3, height + 1, width + 1)
    whole = cells.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, rows * (height + 1), columns * (width + 1))
    return whole[:, :, :-1, :-1].contiguous()
