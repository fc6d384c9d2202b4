"""C_T, a test for data-copying (Meehan, Chaudhuri & Dasgupta 2020, arXiv 2004.05675)."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from elucid.evaluation.memorisation.nearest import nearest

LEAST = 20
"""A cell counts if it holds more samples than this: the tau of the authors, 20 / number of samples."""


@dataclass(frozen=True)
class InCells:
    """Of images: the cells i64[N] in which they lie, and distances f64[N] to the nearest training image of that cell.

    The distance is infinite where a cell holds no training image.
    """

    cells: np.ndarray
    distances: np.ndarray

    def joined(self, kept: np.ndarray, others: "InCells") -> "InCells":
        """Return the images of `kept`, followed by others."""
        cells = np.concatenate([self.cells[kept], others.cells])
        return InCells(cells, np.concatenate([self.distances[kept], others.distances]))


class Partition:
    """Cells of the feature space around centres found by k-means of the training features [M,D]."""

    def __init__(self, train: Tensor, count: int, seed: int = 0):
        from sklearn.cluster import KMeans  # slow to import
        from sklearn.exceptions import ConvergenceWarning

        self.train = train.double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different images than cells
            found = KMeans(count, n_init=1, random_state=seed).fit(self.train.cpu().numpy())
        self.centres = torch.from_numpy(found.cluster_centers_).to(self.train.device, torch.float64)
        self.cells = self.cell_of(self.train)

    def __len__(self) -> int:
        return len(self.centres)

    def cell_of(self, features: Tensor) -> Tensor:
        """Return the cell i64[N] of each image: that of the nearest centre."""
        return nearest(features, self.centres).indices[:, 0]

    def __call__(self, features: Tensor) -> InCells:
        """Return where images with these features [N,D] lie."""
        cells = self.cell_of(features)
        distances = torch.full((len(features),), math.inf, dtype=torch.float64, device=features.device)
        for cell in cells.unique():
            rows, others = cells == cell, self.train[self.cells == cell]
            if len(others):
                distances[rows] = nearest(features[rows], others).distances[:, 0]
        return InCells(cells.cpu().numpy(), distances.cpu().numpy())


@dataclass(frozen=True)
class DataCopying:
    """C_T, its standard deviation if nothing is copied, and the number of cells that count, with their z [cells].

    `value` is nan if no cell counts. `z` is nan in cells that do not count.
    """

    value: float
    deviation: float
    z: np.ndarray

    @property
    def cells(self) -> int:
        return int(np.isfinite(self.z).sum())


def data_copying(samples: InCells, held_out: InCells, count: int) -> DataCopying:
    """Compute C_T = sum_c P(c) Z(c) / sum_c P(c) over the cells c with more than 20 samples.

    P(c) is the part of the held-out images in c, and Z the standardised Mann-Whitney statistic of the distances of
    samples and held-out images to the nearest training image of c. Far below 0: samples are nearer than new real
    images, copied; far above: farther, underfitted. Without copying Z is about standard normal in a cell, which gives
    the deviation of the average.
    """
    z, weights = np.full(count, np.nan), np.zeros(count)
    for cell in range(count):
        made, real = (one.distances[one.cells == cell] for one in (samples, held_out))
        if len(made) > LEAST and len(real) and np.isfinite(made).all():
            z[cell], weights[cell] = mann_whitney(made, real), len(real)
    if not weights.any():
        return DataCopying(math.nan, math.nan, z)
    weights /= weights.sum()
    return DataCopying(float(np.nansum(weights * z)), float(np.sqrt((weights**2).sum())), z)


def mann_whitney(first: np.ndarray, second: np.ndarray) -> float:
    """Return Z = (U - n m / 2) / sqrt(n m (n + m + 1) / 12), U the number of pairs with a larger `first`, ties half."""
    n, m, ordered = len(second), len(first), np.sort(second)
    larger = (np.searchsorted(ordered, first, "left") + np.searchsorted(ordered, first, "right")).sum() / 2
    return float((larger - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12))
