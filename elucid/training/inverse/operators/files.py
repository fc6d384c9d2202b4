"""Arrays of operators and measurements in files: `.npy`, or pictures."""

import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.regular import read_regular
from elucid.training.data.pictures import opened


def read_array(path: str | os.PathLike, what: str) -> Tensor:
    """Return the array of a file, float64: of a `.npy` as it is, of a picture [C,H,W], one channel if it is gray.

    Colours of a palette become RGB; transparency is left out. Raises UserError, naming `what`, for a file that is
    missing, or holds no numbers.
    """
    try:
        if Path(path).suffix.lower() == ".npy":
            values = np.load(io.BytesIO(read_regular(os.fspath(path))), allow_pickle=False)
        else:
            values = _picture(path)
    except Exception as error:  # noqa: BLE001  numpy and Pillow fail in many ways on damaged files
        raise UserError(f"{what}={path} cannot be read ({error}); give a .npy of numbers, or a picture") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "buif" or not values.size:
        raise UserError(f"{what}={path} holds no real numbers; give a .npy of numbers, or a picture")
    return torch.from_numpy(values.astype(np.float64))


def _picture(path: str | os.PathLike) -> np.ndarray:
    with opened(path) as image:
        gray = image.mode in ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
        if image.mode in ("1", "LA"):
            image = image.convert("L")
        values = np.asarray(image if gray else image.convert("RGB"))
    return values[None] if gray else values.transpose(2, 0, 1)


def mask_of(values: Tensor, what: str) -> Tensor:
    """Return a mask, 1 where values are not 0, float64 [1 or C,H,W]. Raises UserError for other shapes, or no 1."""
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise UserError(f"{what} has the shape {list(values.shape)}, not [H,W] or [C,H,W]; convert it")
    if values.isnan().any():
        raise UserError(f"{what} has NaN; write 0 for unknown, anything else for known")
    mask = (values != 0).to(torch.float64)
    if not mask.any():
        raise UserError(f"{what} is 0 everywhere, so that nothing is known; anything but 0 means known")
    return mask


def require_mask_fits(mask: Tensor, images: Tensor, what: str) -> None:
    """Raise UserError unless a mask [1 or C,H,W] has the size and channels of images [B,C,H,W]."""
    if mask.shape[0] not in (1, images.shape[1]) or mask.shape[1:] != images.shape[2:]:
        raise UserError(f"{what} is {list(mask.shape)}, the images are {list(images.shape[1:])}; give it their size")
