"""Mean and standard deviation of all numbers of a data set, as a network sees them."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.training.data.base import Dataset

_AHEAD = 256  # images per thread that may be decoded but not yet summed


def statistics(dataset: Dataset, progress: bool = True, workers: int | None = None) -> tuple[float, float]:
    """Mean and standard deviation over all pixels and channels, one image at a time.

    Of images u8: of u / 127.5 - 1, in [-1, 1], exact up to the last rounding to float64. Of stored latents: of samples
    of the posteriors times their factor, before the VAE's shift (which moves the mean alone). Raises UserError for a
    reader whose images are neither, as only its encoder knows what the network sees.
    """
    count, workers = len(dataset), workers or os.cpu_count() or 1
    total, squares = 0, 0
    bar = progress_bar(total=count, desc="mean and deviation", disable=not progress, delay=1, leave=False)
    with bar, ThreadPoolExecutor(workers) as pool:
        for start in range(0, count, _AHEAD * workers):  # `map` takes all at once, and would hold a million results
            part = range(start, min(start + _AHEAD * workers, count))
            for image_total, image_squares in pool.map(lambda index: channel_sums(dataset, index), part):
                total, squares = total + image_total, squares + image_squares
                bar.update()
    return from_sums(dataset, total, squares)


def channel_sums(dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sums of squares of each channel: int64 of the pixels 0 to 255, float64 of latents before the factor.

    Those of latents are what samples of the posterior have on average. Raises UserError naming an image that is bad.
    """
    image = dataset.image(index)
    if dataset.encoder is not None:
        mean, std = np.split(image.reshape(len(image), -1).astype(np.float64), 2)
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
            raise UserError(f"{dataset.image_name(index)} has values that are not finite or below 0; encode again")
        return mean.sum(1), (mean**2 + std**2).sum(1)
    if image.dtype != np.uint8:
        raise UserError(
            f"{dataset.path} has images of {image.dtype}, not of bytes, so the network's deviation is unknown; "
            "give it as a number, --set precond.sigma_data=0.5"
        )
    pixels = image.reshape(len(image), -1).astype(np.int64)
    return pixels.sum(1), (pixels**2).sum(1)


def from_sums(dataset: Dataset, total: np.ndarray, squares: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation as the network sees them, of the sums of all images and their squares [C]."""
    count = len(dataset) * len(total) * math.prod(dataset.resolution)
    # Python's numbers: integers of any size, so that nothing is lost where the deviation is small beside the mean.
    total, squares = sum(total.tolist()), sum(squares.tolist())
    mean, std = total / count, math.sqrt(max(count * squares - total**2, 0)) / count
    if dataset.encoder is not None:
        scale = dataset.encoder["scale"]
        return mean * scale, std * scale
    return mean / 127.5 - 1, std / 127.5
