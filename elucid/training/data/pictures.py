"""Reads image files: names, headers, and pixels in their EXIF orientation."""

import io
import os
import struct
import threading
import warnings
import zlib
from contextlib import nullcontext
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.limits import PIXELS

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif .tga".split()
)
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
"""Formats that Pillow may open, excluding those that start a program (EPS starts Ghostscript)."""

DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError,
    RuntimeError, NotImplementedError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""Exceptions that Pillow raises for broken files, besides `Image.DecompressionBombError`."""

LARGE = 1 << 24
"""Pixels of a picture above which threads decode one at a time, to save memory."""
_LARGE = threading.Lock()

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own limit is lower

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {(1, 0): "1", (2, 0): "L", (4, 0): "L", (8, 0): "L", (8, 2): "RGB", (8, 4): "LA", (8, 6): "RGBA"}
_PNG_MODES |= {(depth, 3): "P" for depth in (1, 2, 4, 8)}


def is_picture(name: str) -> bool:
    """Return whether a file name has the extension of an image."""
    dot = name.rfind(".")  # faster than a path's suffix, for millions of names
    return name[dot:].lower() in SUFFIXES and dot > 0 and name[dot - 1] != "/"


def opened(file: str | os.PathLike | IO[bytes]) -> Image.Image:
    """Call `PIL.Image.open` for the known formats only. All images are opened here."""
    Image.init()
    if PIXELS.value > PIXELS.default and Image.MAX_IMAGE_PIXELS is not None:  # the user allows more than Pillow
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, PIXELS.value)
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def open_picture(data: bytes, name: str) -> Image.Image:
    """Open an image and read its header only. Raises UserError naming the image."""
    try:
        picture = opened(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is empty, corrupt or not an image; replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise PIXELS.error(f"{name} has too many pixels") from error
    except DECODE_ERRORS as error:
        raise UserError(f"{name} cannot be read: {error}; replace or remove it") from error
    require_size(picture.size, name)
    return picture


def require_size(size: tuple[int, int], name: str) -> None:
    """Raise UserError for more pixels than the limit."""
    if size[0] * size[1] > PIXELS.value:
        raise PIXELS.error(f"{name} has {size[0]}x{size[1]} pixels")


def load_picture(data: bytes, name: str) -> Image.Image:
    """Decode an image and apply its EXIF orientation. Raises UserError naming the image."""
    picture = open_picture(data, name)
    try:
        with _LARGE if picture.width * picture.height > LARGE else nullcontext():
            picture.load()
        return ImageOps.exif_transpose(picture) if picture.info.get("exif") else picture
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is corrupt or truncated ({error}); replace or remove it") from error


def header(data: bytes, name: str) -> tuple[tuple[int, int], str]:
    """Return ((width, height), mode) of an image in its EXIF orientation, without decoding it.

    For a PNG the first 33 bytes are enough. Raises UserError naming the image.
    """
    if data[:8] == _PNG_SIGNATURE and data[12:16] == b"IHDR" and len(data) >= 33:
        width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
        if zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big") and width and height:
            require_size((width, height), name)
            return (width, height), _PNG_MODES.get((depth, colour), f"{depth}-bit PNG of colour type {colour}")
        raise UserError(f"{name} is corrupt (its PNG header); replace or remove it")
    picture = open_picture(data, name)
    width, height = picture.size
    sideways = bool(picture.info.get("exif")) and picture.getexif().get(0x0112) in (5, 6, 7, 8)
    return ((height, width) if sideways else (width, height)), picture.mode
