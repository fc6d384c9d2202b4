"""Many small images as one picture."""

import io
import math
import os

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from elucid.dnnlib.files import write_output


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


def tile(images: Tensor, columns: int | None = None) -> Tensor:
    """u8[N,C,H,W] -> u8[C, rows*H, columns*W], row by row, black where images end; about square by default."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    canvas = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    canvas[:count] = images.cpu()
    canvas = canvas.reshape(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return canvas.reshape(channels, rows * height, columns * width)


def save_grid(images: Tensor, path: str | os.PathLike, columns: int | None = None) -> None:
    """Write u8[N,C,H,W] as one PNG, row by row; UserError where it cannot be written."""
    data = png(tile(images, columns))
    with write_output(path) as file:
        file.write(data)
