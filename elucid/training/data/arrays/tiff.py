"""Reads TIFFs as arrays, of any number of pages and planes, through the optional tifffile."""

import io
import logging
import math
import zlib
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits
from elucid.training.data.arrays.dtypes import native
from elucid.training.data.arrays.formats.tiff_header import NOT_IMAGES, tiff_header

SUFFIXES = (".tif", ".tiff")
_DEFLATE = (8, 32946, 50013)
_UNBOUNDED = (34925,)  # LZMA
_AXES = {"YX": (0, 0, 1), "YXS": (2, 0, 1), "SYX": (0, 1, 2)}


def from_tiff(data: bytes, name: str) -> np.ndarray:
    """Return a TIFF as [C,H,W]: the samples of its pages in order, so that pages or planes are channels.

    Smaller copies of pages and masks of transparency are left out. Raises UserError for what is damaged, pages of
    several sizes or dtypes, and a compression that needs imagecodecs.
    """
    header = tiff_header(data, name)
    assert header is not None  # since the file is whole
    tifffile = _library(name)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            _require_all_planes(file, header.shape, name)
            parts = [_planes(page, name) for page in file.pages if not page.subfiletype & NOT_IMAGES]
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  the library fails in many ways on damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        mend = "pip install imagecodecs" if "imagecodecs" in reason else "replace or remove it"
        raise UserError(f"{name} cannot be read: {reason}; {mend}") from error
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if array.shape != header.shape or array.dtype.newbyteorder("=") != header.dtype:
        raise UserError(f"{name} holds {array.dtype} {list(array.shape)} and says {list(header.shape)}; replace it")
    return native(array)


def _planes(page: Any, name: str) -> np.ndarray:
    """Return a page as [C,H,W]."""
    if page.axes not in _AXES:
        raise UserError(f"{name} has pages with the axes {page.axes}; store planes [H,W] or [H,W,C]")
    _require_bounded(page, name)
    array = page.asarray()
    return array[np.newaxis] if array.ndim == 2 else array.transpose(_AXES[page.axes])


def _require_bounded(page: Any, name: str) -> None:
    """Raise UserError for parts that decompress to more than the page holds; the library would take them whole."""
    part = math.prod(page.chunks) * page.dtype.itemsize
    limits.FILE_BYTES.require(part, f"{name}: the size of its tiles")
    if page.compression in _UNBOUNDED:
        raise UserError(f"{name} is compressed by {page.compression.name}; store it with DEFLATE, or uncompressed")
    if page.compression not in _DEFLATE:
        return
    file, most = page.parent.filehandle, max(part, page.nbytes)
    for place, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(place)
        if len(zlib.decompressobj().decompress(file.read(count), most + 1)) > most:
            raise UserError(f"{name} has parts that decompress to more than their {part} bytes; replace it")


def _require_all_planes(file: Any, shape: tuple[int, ...], name: str) -> None:
    """Raise UserError for a file with one directory for many planes, as some programs write, whose others are lost."""
    if len(file.pages) == 1 and (file.is_imagej or file.is_shaped) and file.series[0].size > np.prod(shape):
        raise UserError(f"{name} has one page for {list(file.series[0].shape)} values; write a page for each plane")


def _library(name: str) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise UserError(f"{name} is a TIFF, for which tifffile is not installed: pip install 'elucid[tiff]'") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what it then raises
    return tifffile
