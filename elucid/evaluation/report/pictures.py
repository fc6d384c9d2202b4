"""Pictures inside the page, decoded by the project's own reader and encoded again in a bounded size."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.evaluation.markup import Markup, element
from elucid.evaluation.report.collect import read_file
from elucid.training.data.pictures import load_picture

BACKGROUND = "#ffffff"


@dataclass(frozen=True)
class Limit:
    """The longest side of a picture in pixels, twice that if it is a PNG of at most `png_bytes`; others become JPEG."""

    side: int
    png_bytes: int


GRID, CELL, FIGURE = Limit(768, 120_000), Limit(128, 12_000), Limit(1600, 600_000)
"""Limits of sample grids, of single samples, and of the pictures of evaluations."""

SMALLEST_SHOWN = 64
"""Single samples that are smaller are shown enlarged to about this width."""


def read_picture(path: Path) -> Image.Image:
    """Decode a picture file. Raises UserError if it is missing, too large or damaged."""
    return load_picture(read_file(path), str(path))


def as_picture(image: np.ndarray) -> Image.Image:
    """Convert u8[C,H,W], gray or RGB, to a PIL image."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def shown(picture: Image.Image, text: str, limit: Limit, **attributes) -> Markup:
    """Return a picture as an element of the page; `text` says what it shows."""
    picture, data = _bounded(picture, limit)
    return element("img", src=data, alt=text, width=picture.width, height=picture.height, **attributes)


def sample(image: np.ndarray, text: str) -> Markup:
    """Return one sample u8[C,H,W] as an element of the page; small ones are enlarged by whole factors."""
    picture, data = _bounded(as_picture(image), CELL)
    factor = max(1, SMALLEST_SHOWN // picture.width)
    size = {"width": picture.width * factor, "height": picture.height * factor}
    return element("img", src=data, alt=text, class_="pixels" if factor > 1 else None, **size)


def inside(folder: Path, name: str) -> Path:
    """Return the file `name` of a folder. Raises UserError if it is outside the folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{name} is outside {folder}; it is not shown")
    return path


def _bounded(picture: Image.Image, limit: Limit) -> tuple[Image.Image, str]:
    """Return a picture within a limit and its data URL: as it is where that is small, else reduced and a JPEG.

    Enlarged samples are small as they are, since reducing them would make more shades.
    """
    if picture.mode not in ("L", "RGB", "RGBA"):
        picture = picture.convert("RGBA" if "A" in picture.mode or "transparency" in picture.info else "RGB")
    if max(picture.size) <= 2 * limit.side:
        content = _encoded(picture, "png")
        if len(content) <= limit.png_bytes:
            return picture, _url("png", content)
    picture = _reduced(picture, limit.side)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, BACKGROUND), picture).convert("RGB")
    return picture, _url("jpeg", _encoded(picture, "jpeg", quality=85, subsampling=0))


def _reduced(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    if factor >= 1:
        return picture
    width, height = (max(1, round(length * factor)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    clean = Image.frombytes(picture.mode, picture.size, picture.tobytes())  # without texts and profiles of the file
    clean.save(buffer, kind, **options)
    return buffer.getvalue()
