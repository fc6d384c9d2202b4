"""Image grids."""

import io
import math
import os

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor
from torch.nn import functional as F

from elucid.dnnlib.files import write_output

USUAL_WIDTH = 1000
"""Approximate width in pixels to which grids of small images are enlarged."""


def picture(image: np.ndarray) -> Image.Image:
    """Convert u8[C,H,W], gray or RGB, to a PIL image."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def png(image: Tensor, notes: dict[str, str] | None = None) -> bytes:
    """Encode u8[C,H,W], gray or RGB, as a PNG file with `notes` as text chunks."""
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for key, text in (notes or {}).items():
        info.add_text(key, text)
    picture(image.cpu().numpy()).save(buffer, format="png", pnginfo=info)
    return buffer.getvalue()


def tile(images: Tensor, columns: int | None = None, cells: int | None = None, gap: int = 0) -> Tensor:
    """Arrange u8[N,C,H,W] row by row in one u8[C,height,width] with `gap` white pixels between; by default square.

    If there are more `cells` than images, the last ones are black.
    """
    count, channels, height, width = images.shape
    cells = cells or count
    columns = columns or math.ceil(math.sqrt(cells))
    rows = -(-cells // columns)
    canvas = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    canvas[:count] = images.cpu()
    canvas = F.pad(canvas, (0, gap, 0, gap), value=255)
    canvas = canvas.reshape(rows, columns, channels, height + gap, width + gap).permute(2, 0, 3, 1, 4)
    canvas = canvas.reshape(channels, rows * (height + gap), columns * (width + gap))
    return canvas[:, : canvas.shape[1] - gap, : canvas.shape[2] - gap]


def enlarged_grid(images: Tensor, columns: int | None = None, cells: int | None = None) -> Tensor:
    """Arrange u8[N,C,H,W] in one u8[C,height,width] with gaps, enlarged to a width of about 1,000 pixels."""
    columns = columns or math.ceil(math.sqrt(cells or len(images)))
    factor = max(1, round(USUAL_WIDTH / (columns * images.shape[-1])))
    enlarged = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return tile(enlarged, columns, cells, gap=2)


def rows_of_classes(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, int]:
    """Sort images into one row per class; returns them with the number of columns.

    Each row has as many images as the rarest class, at most 16. Classes without images have no row.
    """
    of_class = [torch.nonzero(labels == index).flatten() for index in range(num_classes)]
    of_class = [indices for indices in of_class if len(indices)]
    columns = min(16, *map(len, of_class))
    return images[torch.cat([indices[:columns] for indices in of_class])], columns


def save_grid(image: Tensor, path: str | os.PathLike) -> None:
    """Write an image u8[C,H,W] as PNG. Raises UserError if it cannot be written."""
    data = png(image)
    with write_output(path) as file:
        file.write(data)
