"""Mean spectra, correlations and coherence over many images, in groups of images for their errors."""

from dataclasses import dataclass, field

import numpy as np

from elucid.evaluation.spectrum.modes import SECTORS, Modes, coherence

GROUPS = 20
"""Of images, by turns; a statistic is computed without each for its error."""


@dataclass
class Spectra:
    """What is collected of images [C,H,W]: sums over the images of each group, and their numbers."""

    modes: Modes
    channels: int
    counts: np.ndarray = field(init=False)
    rings: np.ndarray = field(init=False)
    products: np.ndarray = field(init=False)
    sums: np.ndarray = field(init=False)
    squares: np.ndarray = field(init=False)
    _shift: np.ndarray | None = None

    def __post_init__(self):
        several = self.channels if self.channels > 1 else 0
        self.counts = np.zeros(GROUPS)
        self.rings = np.zeros((GROUPS, self.channels, len(self.modes.ring_counts)))
        self.products = np.zeros((GROUPS, len(self.modes.octaves), SECTORS, several, several), dtype=np.complex128)
        self.sums, self.squares = np.zeros((GROUPS, several)), np.zeros((GROUPS, several, several))

    def add(self, image: np.ndarray) -> None:
        """Add an image [C,H,W], in the data's own units."""
        group = int(self.counts.sum()) % GROUPS
        modes = self.modes.transform(image)
        self.counts[group] += 1
        self.rings[group] += self.modes.rings(modes)
        if self.channels > 1:
            self.products[group] += self.modes.products(modes)
            flat = image.reshape(self.channels, -1).astype(np.float64)
            self._shift = flat.mean(1) if self._shift is None else self._shift  # large offsets would cost digits
            flat = flat - self._shift[:, None]
            self.sums[group] += flat.mean(1)
            self.squares[group] += flat @ flat.T / flat.shape[1]

    @property
    def num(self) -> int:
        return int(self.counts.sum())

    def power(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean power [C,F], and [G,C,F] without each group."""
        rings = self.modes.shown(self.rings)
        return rings.sum(0) / self.num, self._without(rings)

    def correlation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the correlation [C,C] of channels over positions and images, and [G,C,C] without each group."""
        whole = correlation(self.sums.sum(0) / self.num, self.squares.sum(0) / self.num)
        return whole, correlation(self._without(self.sums), self._without(self.squares))

    def coherence(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the coherence [O,C,C] of channels in each octave, and [G,O,C,C] without each group."""
        return coherence(self.products.sum(0) / self.num), coherence(self._without(self.products))

    def _without(self, sums: np.ndarray) -> np.ndarray:
        """Return the mean without each group that has images."""
        there = np.flatnonzero(self.counts)
        left = (self.num - self.counts[there]).reshape(-1, *[1] * (sums.ndim - 1))
        return (sums.sum(0) - sums[there]) / left


def correlation(means: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the correlation [...,C,C] from means [...,C] and mean products [...,C,C]; NaN for constant channels."""
    covariance = squares - means[..., :, None] * means[..., None, :]
    own = np.sqrt(np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1), 0))
    both = own[..., :, None] * own[..., None, :]
    return np.divide(covariance, both, out=np.full(both.shape, np.nan), where=both > 0)


def jackknife_variance(without: np.ndarray) -> np.ndarray:
    """Return the variance [...] of a statistic from its values [G,...] without each of G groups.

    The delete-a-group jackknife: (G - 1) / G sum (t_g - mean t)^2 (Kott 2001); images must be independent.
    """
    groups = len(without)
    return (groups - 1) / groups * ((without - without.mean(0)) ** 2).sum(0)
