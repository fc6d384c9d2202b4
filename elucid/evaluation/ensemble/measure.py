"""Collects what an ensemble evaluation needs, one condition after another; memory does not grow with their size."""

from dataclasses import dataclass

import numpy as np

from elucid.evaluation.ensemble import coverage
from elucid.evaluation.ensemble.flatness import Bins, Histogram
from elucid.evaluation.ensemble.scores import crps, energy_score, ranks

_AT_ONCE = 1 << 22  # numbers in float64, of all members

VALUES = ("bias", "squared_error", "variance", "crps", "crps_fair", "energy")
"""Means over the positions of a field: of the mean's error, its square, the members' variance, and the scores."""


@dataclass(frozen=True)
class _Field:
    """Of one channel under one condition: VALUES, and how often the truth has each rank."""

    values: list[float]
    frequencies: np.ndarray


class Ensembles:
    """What is measured of ensembles of K members over conditions, for C channels.

    `values` and `covered` are f64[N,C,...] by condition: VALUES, and the coverage of the intervals `levels`; the last
    channel of `histograms` and of `covered` is that of all channels together. `seed` decides ties of ranks.
    """

    def __init__(self, members: int, channels: int, seed: int = 0):
        self.members, self.channels, self.seed = members, channels, seed
        self.bins, self._weights = Bins(members), coverage.intervals(members)
        self.levels = tuple(self._weights)
        self.histograms = [Histogram(len(self.bins)) for _ in range(channels + 1)]
        self._values: list[list[list[float]]] = []
        self._covered: list[np.ndarray] = []
        self._truths: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, members: np.ndarray, truth: np.ndarray) -> None:
        """Add the members [K,C,H,W] and the truth [C,H,W] of one condition, in the data's own units."""
        random = np.random.default_rng([self.seed, len(self)])
        fields = [self._field(members[:, channel], truth[channel], random) for channel in range(self.channels)]
        frequencies = np.stack([field.frequencies for field in fields])
        frequencies = np.concatenate([frequencies, frequencies.mean(0, keepdims=True)])
        for histogram, one in zip(self.histograms, self.bins.of(frequencies), strict=True):
            histogram.add(one)
        self._values.append([field.values for field in fields])
        self._covered.append(frequencies @ np.stack(list(self._weights.values()), axis=1))
        flat = truth.reshape(self.channels, -1).astype(np.float64)
        self._truths.append(np.stack([flat.mean(1), flat.var(1)]))

    @property
    def values(self) -> np.ndarray:
        return np.array(self._values)

    @property
    def covered(self) -> np.ndarray:
        return np.array(self._covered)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation [C] of the truth over all conditions and positions."""
        mean, variance = np.stack(self._truths, axis=1)
        return np.sqrt(variance.mean(0) + mean.var(0))

    def _field(self, members: np.ndarray, truth: np.ndarray, random: np.random.Generator) -> _Field:
        """Measure one channel, in parts whose float64 copies are small."""
        members, truth = members.reshape(self.members, -1), truth.reshape(-1)
        positions, step = len(truth), max(1, _AT_ONCE // self.members)
        sums, products = np.zeros(len(VALUES) - 1), np.zeros((self.members, self.members))
        counts = np.zeros(self.members + 1, dtype=np.int64)
        for start in range(0, positions, step):
            part = slice(start, start + step)
            deviations = members[:, part].astype(np.float64) - truth[part].astype(np.float64)
            mean, (plain, fair) = deviations.mean(0), crps(deviations)
            each = (mean, mean**2, deviations.var(0, ddof=1), plain, fair)
            sums += [one.sum() for one in each]
            products += deviations @ deviations.T
            counts += np.bincount(ranks(deviations, random), minlength=self.members + 1)
        values = [*(sums / positions).tolist(), energy_score(products / positions)]
        return _Field(values, counts / positions)
