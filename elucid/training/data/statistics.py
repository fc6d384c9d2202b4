"""Mean and standard deviation of a dataset as seen by the network."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.training.data.arrays.missing import require_finite
from elucid.training.data.base import Dataset
from elucid.training.encoders.statistics import ChannelStatistics

_AHEAD = 256  # decoded images per thread that may wait to be summed

_BLOCK = 1 << 20  # pixels that are summed at a time


def statistics(
    dataset: Dataset, progress: bool = True, workers: int | None = None, encoder: dict | None = None
) -> tuple[float, float]:
    """Compute mean and standard deviation over all pixels and channels.

    For uint8 images u, the values are u / 127.5 - 1 in [-1, 1], exact up to the final rounding to float64. For stored
    latents, they are posterior samples times the scale factor, before the VAE's shift (which only affects the mean), or
    normalised by the statistics of each channel, as `encoder` says, by default the one that made them. Sums that the
    dataset knows are taken from it. Raises UserError for other data, as only the encoder knows the network's input.
    """
    if dataset.sums is not None:
        return from_sums(dataset, *dataset.sums, encoder)
    count, workers = len(dataset), workers or os.cpu_count() or 1
    total, squares = 0, 0
    bar = progress_bar(total=count, desc="mean and deviation", disable=not progress, delay=1, leave=False)
    with bar, ThreadPoolExecutor(workers) as pool:
        for start in range(0, count, _AHEAD * workers):  # a single `map` would hold up to a million results
            part = range(start, min(start + _AHEAD * workers, count))
            for image_total, image_squares in pool.map(lambda index: channel_sums(dataset, index), part):
                total, squares = total + image_total, squares + image_squares
                bar.update()
    return from_sums(dataset, total, squares, encoder)


def channel_sums(dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and sums of squares per channel: int64 for pixels 0 to 255, float64 for latents before scaling.

    For latents these are the expectations over the posterior. Raises UserError naming an invalid image.
    """
    image = dataset.image(index)
    if dataset.arrays is not None:
        return array_sums(image, dataset, index)
    if dataset.encoder is not None:
        total, squares = latent_sums(image)
        if not (np.isfinite(squares).all() and (image[len(total) :] >= 0).all()):
            raise UserError(f"{dataset.image_name(index)} has values that are not finite or below 0; encode again")
        return total, squares
    if image.dtype != np.uint8:
        raise UserError(
            f"{dataset.path} has images of {image.dtype}, not uint8, so the standard deviation of the network's "
            "input is unknown; give a number, e.g. --set precond.sigma_data=0.5"
        )
    pixels = image.reshape(len(image), -1)
    total = squares = np.zeros(len(image), dtype=np.int64)
    for start in range(0, pixels.shape[1], _BLOCK):  # since eight bytes a pixel fill the memory for large pictures
        part = pixels[:, start : start + _BLOCK].astype(np.int64)
        total, squares = total + part.sum(1), squares + (part**2).sum(1)
    return total, squares


def array_sums(array: np.ndarray, dataset: Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return f64[C], sums and sums of squares of each channel. Raises UserError for values that are not finite."""
    rows = require_finite(array, dataset, index).reshape(len(array), -1).astype(np.float64)
    return rows.sum(1), (rows**2).sum(1)


def latent_sums(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return f64[C], E sum x and E sum x^2 over the positions of x ~ N(mean, std^2), of moments [2C,h,w]."""
    mean, std = np.split(moments.reshape(len(moments), -1).astype(np.float64), 2)
    return mean.sum(1), (mean**2 + std**2).sum(1)


def from_sums(
    dataset: Dataset, total: np.ndarray, squares: np.ndarray, encoder: dict | None = None
) -> tuple[float, float]:
    """Return mean and standard deviation as seen by the network from sums and sums of squares [C] over all images."""
    pixels = len(dataset) * math.prod(dataset.resolution)
    encoder = encoder or dataset.encoder or dataset.arrays
    normalised = None if encoder is None or dataset.kind == "images" else ChannelStatistics.of(encoder)
    if normalised is not None:
        mean, std = moments_of(total, squares, pixels)
        mean, std = (mean - normalised.mean) * normalised.factors, std * normalised.factors
        return mean.mean(), math.sqrt((std**2 + mean**2).mean() - mean.mean() ** 2)
    count = pixels * len(total)
    # Python integers are exact, which matters if the deviation is much smaller than the mean.
    total, squares = sum(total.tolist()), sum(squares.tolist())
    mean, std = total / count, math.sqrt(max(count * squares - total**2, 0)) / count
    if dataset.encoder is not None and encoder is not None:
        return mean * encoder["scale"], std * encoder["scale"]
    return mean / 127.5 - 1, std / 127.5


def moments_of(total: np.ndarray, squares: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation [C] from sums and sums of squares [C] over `count` pixels."""
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))
