"""How similar an image is to the truth: PSNR and SSIM, in the range of the data."""

import math

import numpy as np

from elucid.dnnlib.errors import UserError

SIGMA, RADIUS = 1.5, 5
"""Of the Gaussian window of SSIM, 11 pixels wide (Wang et al. 2004)."""


def psnr(image: np.ndarray, truth: np.ndarray, data_range: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of images [C,H,W] in decibels, infinite if both are the same.

    -10 log10 of the mean over channels and pixels of ((image - truth) / R)^2, where `data_range` [C] has R.
    """
    error = (image.astype(np.float64) - truth.astype(np.float64)) / data_range[:, None, None]
    mean = float((error**2).mean())
    return -10 * math.log10(mean) if mean > 0 else math.inf


def ssim(image: np.ndarray, truth: np.ndarray, data_range: np.ndarray) -> float:
    """Return the mean structural similarity of images [C,H,W], or lines [C,1,W], at most 1, as a mean over channels.

    Wang et al. 2004 with its constants and Gaussian window, of scikit-image. Raises UserError without scikit-image, and
    for images narrower than the window; see `require_ssim`.
    """
    from skimage.metrics import structural_similarity

    values = [
        structural_similarity(
            *(np.squeeze(part, axis=_flat(part.shape)).astype(np.float64) for part in (one, other)),
            data_range=float(span),
            gaussian_weights=True,
            sigma=SIGMA,
            use_sample_covariance=False,
        )
        for one, other, span in zip(image, truth, data_range, strict=True)
    ]
    return float(np.mean(values))


def require_ssim(shape: tuple[int, ...]) -> None:
    """Raise UserError if SSIM cannot be computed of images [C,H,W]: they are too small, or scikit-image is missing."""
    sides = [side for side in shape[1:] if side > 1] or [1]
    if min(sides) < 2 * RADIUS + 1:
        raise UserError(
            f"`ssim` needs sides of at least {2 * RADIUS + 1} pixels, not {min(sides)}; leave it out with `ssim`=0"
        )
    try:
        import skimage.metrics  # noqa: F401
    except ImportError as error:
        raise UserError(
            '`ssim` needs scikit-image: pip install "elucid[ssim]", or leave it out with `ssim`=0'
        ) from error


def range_of(dtype: np.dtype, given: list[float] | None, channels: int) -> np.ndarray:
    """Return the range [C] of data: one number given for all channels, one for each, or that of an integer type.

    Raises UserError for floats without a range.
    """
    if given is None:
        if dtype.kind == "u":
            return np.full(channels, float(np.iinfo(dtype).max))
        raise UserError(
            f"`data_range` of {dtype} data is not known: give the largest minus the smallest value that is possible, "
            "a number for all channels or one for each"
        )
    if len(given) not in (1, channels) or not all(math.isfinite(one) and one > 0 for one in given):
        raise UserError(
            f"`data_range`={','.join(f'{one:g}' for one in given)} must be one number above 0, or {channels}, one for "
            "each channel"
        )
    return np.broadcast_to(np.array(given, dtype=np.float64), (channels,))


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sides of one pixel, along which there is no structure."""
    return tuple(axis for axis, side in enumerate(shape) if side == 1)
