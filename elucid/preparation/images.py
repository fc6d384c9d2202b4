"""Converts images of any mode (palette, transparency, 16 bits, CMYK) to 8-bit gray or RGB."""

import numpy as np
from PIL import Image

from elucid.dnnlib.errors import UserError

GRAY, RGB = 1, 3


def is_gray(picture: Image.Image) -> bool:
    """Return whether an image is gray, judged by mode and palette, not by its pixels."""
    if picture.mode in ("P", "PA"):
        colours = np.array(picture.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        return bool((colours == colours[:, :1]).all())
    return picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I")


def normalise(picture: Image.Image, channels: int, background: tuple[int, int, int], name: str) -> Image.Image:
    """Convert to mode L (`channels` 1) or RGB (3); transparent images are composited over `background`.

    16-bit values are scaled by 255/65535 and rounded. Raises UserError for floating-point and 32-bit images.
    """
    if picture.mode == "F":
        raise UserError(f"{name} has floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        picture = _from_16_bits(picture, name)
    target = "L" if channels == GRAY else "RGB"
    try:
        if picture.has_transparency_data:
            picture = _over(picture.convert("RGBA"), background)
        return picture if picture.mode == target else picture.convert(target)
    except ValueError as error:
        raise UserError(f"{name} has the unsupported mode {picture.mode}; save it as RGB") from error


def _from_16_bits(picture: Image.Image, name: str) -> Image.Image:
    values = np.asarray(picture).astype(np.int32)  # which 65535 * 255 fits
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{name} has more than 16 bits per pixel; save it with 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _over(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Alpha compositing over one opaque colour."""
    ground = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(ground, picture).convert("RGB")
