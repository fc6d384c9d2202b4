"""A picture of samples beside their nearest training images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from elucid.dnnlib.files import write_output

CELL, GAP, GUTTER, TEXT = 96, 6, 30, 16
"""Least size of a shown image, the space between images and between columns, and the height of text, in pixels."""


@dataclass(frozen=True)
class Row:
    """A sample u8[C,H,W] and its nearest training images, nearest first, with a caption for each picture."""

    sample: np.ndarray
    caption: str
    nearest: Sequence[np.ndarray]
    captions: Sequence[str]


def save_sheet(path: str | os.PathLike, rows: Sequence[Row], title: str, columns: int = 2) -> None:
    """Write a PNG under a title: in each line `columns` rows side by side, a sample | its nearest training images.

    Raises UserError if the file cannot be written.
    """
    shown = [[_enlarged(image) for image in (row.sample, *row.nearest)] for row in rows]
    width, height = shown[0][0].size
    across = len(shown[0]) * (width + GAP) + GUTTER
    lines, head = -(-len(rows) // columns), TEXT + 2 * GAP
    canvas = Image.new("RGB", (GAP + columns * across - GUTTER + GAP, head + lines * (height + TEXT + GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    draw.text((GAP, GAP), title, fill="black", font=font)
    for number, (row, pictures) in enumerate(zip(rows, shown, strict=True)):
        left, top = GAP + number % columns * across, head + number // columns * (height + TEXT + GAP)
        for place, (image, caption) in enumerate(zip(pictures, (row.caption, *row.captions), strict=True)):
            x = left + place * (width + GAP) + (GAP if place else 0)  # the sample stands apart
            canvas.paste(image, (x, top))
            draw.text((x, top + height + 1), caption, fill="black", font=font)
        edge = left + width + GAP
        draw.line([(edge, top), (edge, top + height)], fill="black")
    with write_output(path) as file:
        canvas.save(file, format="png")


def _enlarged(image: np.ndarray) -> Image.Image:
    factor = max(1, -(-CELL // image.shape[1]))
    pixels = image.repeat(factor, 1).repeat(factor, 2).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
