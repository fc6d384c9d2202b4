"""Mean, deviation, range and robust statistics of each channel of arrays, in one pass and little memory."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MAD_TO_STD = 1.4826
"""1 / Phi^-1(3/4): the standard deviation of a Gaussian over its median absolute deviation."""

SAMPLED = 1 << 16
"""Values of each channel from which the robust statistics are computed."""


@dataclass
class ChannelSummary:
    """Statistics of the finite values of each channel, f64 [C] each, in own units; NaN where there is no value.

    `std` divides by the count. `median` and `robust_std` = 1.4826 median |x - median| are those of at most `SAMPLED`
    values, drawn without replacement: exact for less. `count` and `missing`, int64 [C], tell finite and other values.
    """

    samples: int
    count: np.ndarray
    missing: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    median: np.ndarray
    robust_std: np.ndarray

    @property
    def constant(self) -> list[int]:
        """Channels whose finite values are all equal, or that have none: they cannot be normalised."""
        return [int(one) for one in np.flatnonzero(~(self.maximum > self.minimum))]


class ChannelStream:
    """Adds up samples [C,H,W] of any size: Chan, Golub and LeVeque (1983) for mean and deviation, in float64.

    With n_a, mean_a, M2_a of what came before and d = mean_b - mean_a: M2 = M2_a + M2_b + d^2 n_a n_b / (n_a + n_b).
    The robust statistics are those of the values with the smallest of random keys, which `seed` and the number of the
    sample determine.
    """

    def __init__(self, channels: int, sampled: int = SAMPLED, seed: int = 0):
        self.samples = 0
        self.count, self.missing = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
        self._mean, self._m2 = np.zeros(channels), np.zeros(channels)
        self._minimum, self._maximum = np.full(channels, np.inf), np.full(channels, -np.inf)
        self._reservoirs = [_Reservoir(sampled) for _ in range(channels)]
        self._seed = seed

    def add(self, array: np.ndarray) -> None:
        """Add a sample [C,H,W], of as many channels as the others."""
        rng = np.random.default_rng((self._seed, self.samples))
        for channel, plane in enumerate(array):  # one at a time, since float64 takes two to eight times the memory
            values = plane.astype(np.float64).ravel()
            finite = values if plane.dtype.kind != "f" else values[np.isfinite(values)]
            self.missing[channel] += values.size - finite.size
            if finite.size:
                self._add(channel, finite)
                self._reservoirs[channel].add(finite, rng)
        self.samples += 1

    def _add(self, channel: int, values: np.ndarray) -> None:
        before, new = int(self.count[channel]), values.size
        mean = values.mean()
        centred = values - mean
        shift = mean - self._mean[channel]
        # The second term corrects the rounding of the mean.
        m2 = centred @ centred - centred.sum() ** 2 / new
        self._m2[channel] += m2 + shift**2 * (before * new / (before + new))
        self._mean[channel] += shift * (new / (before + new))
        self.count[channel] = before + new
        self._minimum[channel] = min(self._minimum[channel], values.min())
        self._maximum[channel] = max(self._maximum[channel], values.max())

    def summary(self) -> ChannelSummary:
        """Return the statistics of what was added."""
        some = self.count > 0
        robust = np.array([one.robust() for one in self._reservoirs]).reshape(-1, 2)
        return ChannelSummary(
            self.samples,
            self.count.copy(),
            self.missing.copy(),
            np.where(some, self._mean, np.nan),
            np.where(some, np.sqrt(self._m2 / np.maximum(self.count, 1)), np.nan),
            np.where(some, self._minimum, np.nan),
            np.where(some, self._maximum, np.nan),
            robust[:, 0],
            robust[:, 1],
        )


def channel_statistics(arrays: Iterable[np.ndarray], sampled: int = SAMPLED, seed: int = 0) -> ChannelSummary:
    """Return the statistics of samples [C,H,W], which are read once. Raises ValueError if there are none."""
    stream = None
    for array in arrays:
        stream = stream or ChannelStream(len(array), sampled, seed)
        stream.add(array)
    if stream is None:
        raise ValueError("statistics of no samples")
    return stream.summary()


class _Reservoir:
    """A uniform sample without replacement of at most `most` values: those with the smallest keys in [0, 1).

    Of n new values only those with keys below the largest kept one, t, can enter. They are Binomial(n, t) many, at
    places all alike, with keys uniform below t; so no keys are drawn for the others.
    """

    def __init__(self, most: int):
        self._most = most
        self._values, self._keys = np.zeros(0), np.zeros(0)

    def add(self, values: np.ndarray, rng: np.random.Generator) -> None:
        limit = 1.0 if len(self._keys) < self._most else float(self._keys.max())
        if limit < 1:
            values = rng.choice(values, rng.binomial(values.size, limit), replace=False, shuffle=False)
        self._values = np.concatenate([self._values, values])
        self._keys = np.concatenate([self._keys, limit * rng.random(values.size)])
        if len(self._keys) > self._most:
            kept = np.argpartition(self._keys, self._most)[: self._most]
            self._values, self._keys = self._values[kept], self._keys[kept]

    def robust(self) -> tuple[float, float]:
        if not len(self._values):
            return np.nan, np.nan
        median = np.median(self._values)
        return float(median), float(MAD_TO_STD * np.median(np.abs(self._values - median)))
