"""Many small images as one picture, large enough to look at."""

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
"""Pixels that a picture of small images is enlarged to, about."""


def picture(image: np.ndarray) -> Image.Image:
    """A PIL picture of u8[C,H,W], gray or RGB."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def png(image: Tensor, notes: dict[str, str] | None = None) -> bytes:
    """The PNG file of u8[C,H,W], gray or RGB, with notes as its text chunks."""
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for key, text in (notes or {}).items():
        info.add_text(key, text)
    picture(image.cpu().numpy()).save(buffer, format="png", pnginfo=info)
    return buffer.getvalue()


def tile(images: Tensor, columns: int | None = None, cells: int | None = None, gap: int = 0) -> Tensor:
    """u8[N,C,H,W] -> one u8[C,height,width], row by row, `gap` white pixels between them; about square by default.

    Of more `cells` than images the last ones are black.
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


def to_look_at(images: Tensor, columns: int | None = None, cells: int | None = None) -> Tensor:
    """Images u8[N,C,H,W] as one u8[C,height,width], every pixel enlarged until it is about 1,000 wide, cells apart."""
    columns = columns or math.ceil(math.sqrt(cells or len(images)))
    factor = max(1, round(USUAL_WIDTH / (columns * images.shape[-1])))
    enlarged = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return tile(enlarged, columns, cells, gap=2)


def rows_of_classes(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, int]:
    """Images sorted so that each class has a row, as many of each as the rarest has, 16 at most, and the columns.

    Classes without an image have no row.
    """
    of_class = [torch.nonzero(labels == index).flatten() for index in range(num_classes)]
    of_class = [indices for indices in of_class if len(indices)]
    columns = min(16, *map(len, of_class))
    return images[torch.cat([indices[:columns] for indices in of_class])], columns


def save_grid(image: Tensor, path: str | os.PathLike) -> None:
    """Write one picture u8[C,H,W] as PNG; UserError where it cannot be written."""
    data = png(image)
    with write_output(path) as file:
        file.write(data)
