"""Whether a rank histogram is flat, by a chi-square test for ranks that are not independent."""

from dataclasses import dataclass

import numpy as np

MOST_BINS = 25
"""Ranks of larger ensembles are put together."""


@dataclass(frozen=True)
class Flatness:
    """A statistic that is about chi-square with `df` degrees of freedom if the ranks are uniform, and its p-value."""

    chi2: float
    df: float
    p: float


class Bins:
    """Which ranks 0 to K lie in a bin of the histogram, in order, and the share of each if ranks are uniform."""

    def __init__(self, members: int):
        parts = np.array_split(np.arange(members + 1), min(members + 1, MOST_BINS))
        self.starts = np.array([part[0] for part in parts])
        self.expected = np.array([len(part) for part in parts]) / (members + 1)
        self.middles = np.array([part.mean() for part in parts]) / members

    def __len__(self) -> int:
        return len(self.starts)

    def of(self, frequencies: np.ndarray) -> np.ndarray:
        """Return the frequencies [...,bins] of ranks [...,K+1]."""
        return np.add.reduceat(frequencies, self.starts, axis=-1)


class Histogram:
    """Running mean [R] and covariance [R,R] of the frequencies of R bins over conditions."""

    def __init__(self, bins: int):
        self.num, self.mean, self.scatter = 0, np.zeros(bins), np.zeros((bins, bins))

    def add(self, frequencies: np.ndarray) -> None:
        """Add the frequencies [R] of one condition."""
        self.num += 1
        before = frequencies - self.mean
        self.mean = self.mean + before / self.num
        self.scatter += np.outer(before, frequencies - self.mean)

    @property
    def error(self) -> np.ndarray:
        """Standard error [R] of the mean; NaN for a single condition."""
        if self.num < 2:
            return np.full_like(self.mean, np.nan)
        return np.sqrt(np.diag(self.scatter) / (self.num - 1) / self.num)

    def flatness(self, expected: np.ndarray) -> Flatness | None:
        """Test the mean against `expected` [R]; None for fewer than three conditions.

        Pearson's statistic sum (f - e)^2 / e, scaled to a chi-square by the covariance of f over conditions (Rao &
        Scott 1981, second order), as the pixels of one condition are not independent. With one independent position
        per condition it is Pearson's test. The p-value is that of F(df, df (N - 1)), as the covariance is estimated.
        """
        if self.num < 3:
            return None
        from scipy.stats import f as fisher  # here, as it takes half a second that help should not wait for

        n, root = self.num - 1, np.sqrt(expected)
        covariance = self.scatter / n / self.num / np.outer(root, root)
        total, squares = np.trace(covariance), (covariance**2).sum()
        if total <= 0:
            return None
        # The unbiased estimate of the squared covariance's trace (Bai & Saranadasa 1996).
        squares = n**2 / ((n - 1) * (n + 2)) * (squares - total**2 / n)
        df = float(np.clip(total**2 / squares if squares > 0 else np.inf, 1, len(expected) - 1))
        ratio = float(((self.mean - expected) ** 2 / expected).sum() / total)
        return Flatness(ratio * df, df, float(fisher.sf(ratio, df, df * n)))
