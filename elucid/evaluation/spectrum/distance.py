"""The distance between log power spectra, without what few images alone make of it."""

import math
from dataclasses import dataclass

import numpy as np

from elucid.evaluation.spectrum.collect import Spectra, jackknife_variance


@dataclass(frozen=True)
class Distance:
    """Of one channel, in decibels: `value` with its 95 % interval, and `noise`, what chance alone would show.

    `ratio` [F] is the power of the samples over that of the data in decibels, `error` [F] its standard error.
    """

    value: float
    interval: tuple[float, float]
    noise: float
    ratio: np.ndarray
    error: np.ndarray


def distances(samples: Spectra, data: Spectra) -> list[Distance | None]:
    """Return the distance of each channel, None for one that is constant in either set; both need two images.

    d^2 = mean_f (10 log10 S_samples(f) / S_data(f))^2 - mean_f v(f), where v is the variance of the log ratio by the
    jackknife over images: without the second term d would grow as images become fewer. d is the root of d^2, or 0 if it
    is below. The interval's ends are roots of those of d^2.
    """
    (power_a, without_a), (power_b, without_b) = samples.power(), data.power()
    return [
        _distance(power_a[channel], without_a[:, channel], power_b[channel], without_b[:, channel])
        for channel in range(samples.channels)
    ]


def _distance(a: np.ndarray, without_a: np.ndarray, b: np.ndarray, without_b: np.ndarray) -> Distance | None:
    there = (a > 0) & (b > 0) & (without_a > 0).all(0) & (without_b > 0).all(0)
    if not there.any():
        return None
    levels = [10 * np.log10(one[..., there]) for one in (a, without_a, b, without_b)]
    ratio = levels[0] - levels[2]
    variance = jackknife_variance(levels[1]) + jackknife_variance(levels[3])
    noise = float(variance.mean())
    squared = float((ratio**2).mean()) - noise
    error = math.sqrt(
        jackknife_variance(((levels[1] - levels[2]) ** 2).mean(1))
        + jackknife_variance(((levels[0] - levels[3]) ** 2).mean(1))
    )
    low, high = squared - 1.96 * error, squared + 1.96 * error
    everywhere = [np.full(len(a), np.nan) for _ in range(2)]
    everywhere[0][there], everywhere[1][there] = ratio, np.sqrt(variance)
    return Distance(_root(squared), (_root(low), _root(high)), math.sqrt(noise), *everywhere)


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))
