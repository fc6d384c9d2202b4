"""Picture files: which names are pictures, what their headers say, and their pixels, upright."""

import io
import os
import struct
import zlib
from pathlib import PurePosixPath
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

from elucid.dnnlib.errors import UserError

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif .tga".split()
)
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
"""What Pillow may open, whatever a file is called: nothing that starts a program (EPS starts Ghostscript)."""

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)
"""What Pillow raises on broken files, besides `Image.DecompressionBombError`."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {(1, 0): "1", (2, 0): "L", (4, 0): "L", (8, 0): "L", (8, 2): "RGB", (8, 4): "LA", (8, 6): "RGBA"}
_PNG_MODES |= {(depth, 3): "P" for depth in (1, 2, 4, 8)}


def is_picture(name: str) -> bool:
    """Whether a file name ends like a picture's."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def opened(file: str | os.PathLike | IO[bytes]) -> Image.Image:
    """`PIL.Image.open` of the known formats alone; raises what that raises. Every picture is opened here."""
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def open_picture(data: bytes, name: str) -> Image.Image:
    """Read the header only; pixels follow at first use. Raises UserError naming the picture."""
    try:
        return opened(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is empty, corrupt or no picture; replace or remove it") from error
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise UserError(f"{name} cannot be read: {error}; replace or remove it") from error


def load_picture(data: bytes, name: str) -> Image.Image:
    """Decode a picture and turn it upright as its EXIF orientation says. Raises UserError naming the picture."""
    picture = open_picture(data, name)
    try:
        picture.load()
        return ImageOps.exif_transpose(picture) if picture.info.get("exif") else picture
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is corrupt or truncated ({error}); replace or remove it") from error


def header(data: bytes, name: str) -> tuple[tuple[int, int], str]:
    """((width, height), mode) of a picture once upright, without decoding it; the first 33 bytes of a PNG are enough.

    Raises UserError naming the picture.
    """
    if data[:8] == _PNG_SIGNATURE and data[12:16] == b"IHDR" and len(data) >= 33:
        width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
        if zlib.crc32(data[12:29]) == int.from_bytes(data[29:33], "big") and width and height:
            return (width, height), _PNG_MODES.get((depth, colour), f"{depth}-bit PNG of colour type {colour}")
        raise UserError(f"{name} is corrupt (its PNG header); replace or remove it")
    picture = open_picture(data, name)
    width, height = picture.size
    sideways = bool(picture.info.get("exif")) and picture.getexif().get(0x0112) in (5, 6, 7, 8)
    return ((height, width) if sideways else (width, height)), picture.mode
