"""The distance between log power spectra, without what few images alone make of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elucid.evaluation.spectrum.collect import Spectra, jackknife_variance


@dataclass(frozen=True)
class Distance:
    """A distance in decibels by its square, which may be below 0, and `without` each group of either set's images."""

    squared: float
    without: tuple[np.ndarray, np.ndarray]

    @property
    def value(self) -> float:
        return _root(self.squared)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, whose ends are roots of those of the square, or 0."""
        half = 1.96 * math.sqrt(sum(float(jackknife_variance(one)) for one in self.without))
        return _root(self.squared - half), _root(self.squared + half)


@dataclass(frozen=True)
class ChannelDistance(Distance):
    """Of one channel: `noise` is what chance alone would show.

    `ratio` [F] is the power of the samples over that of the data in decibels, `error` [F] its standard error.
    """

    noise: float
    ratio: np.ndarray
    error: np.ndarray


def distances(samples: Spectra, data: Spectra) -> list[ChannelDistance | None]:
    """Return the distance of each channel, None for one that is constant in either set; both need two images.

    d^2 = mean_f (10 log10 S_samples(f) / S_data(f))^2 - mean_f v(f), where v is the variance of the log ratio by the
    jackknife over images: without the second term d would grow as images become fewer. d is the root of d^2, or 0 if it
    is below.
    """
    (power_a, without_a), (power_b, without_b) = samples.power(), data.power()
    return [
        _distance(power_a[channel], without_a[:, channel], power_b[channel], without_b[:, channel])
        for channel in range(samples.channels)
    ]


def together(found: Sequence[Distance]) -> Distance:
    """Return the root mean square of the distances of channels, whose images are the same."""
    first, second = (np.mean([one.without[place] for one in found], axis=0) for place in (0, 1))
    return Distance(sum(one.squared for one in found) / len(found), (first, second))


def _distance(a: np.ndarray, without_a: np.ndarray, b: np.ndarray, without_b: np.ndarray) -> ChannelDistance | None:
    there = (a > 0) & (b > 0) & (without_a > 0).all(0) & (without_b > 0).all(0)
    if not there.any():
        return None
    a, without_a, b, without_b = (10 * np.log10(one[..., there]) for one in (a, without_a, b, without_b))
    variance = jackknife_variance(without_a) + jackknife_variance(without_b)
    noise = float(variance.mean())
    without = tuple(((one**2).mean(1) - noise) for one in (without_a - b, a - without_b))
    ratio, error = np.full(len(there), np.nan), np.full(len(there), np.nan)
    ratio[there], error[there] = a - b, np.sqrt(variance)
    return ChannelDistance(float(((a - b) ** 2).mean()) - noise, without, math.sqrt(noise), ratio, error)


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))
