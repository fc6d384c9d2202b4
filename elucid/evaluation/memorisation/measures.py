"""All measures of memorisation from features of samples, training images and held-out images."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from elucid.evaluation.memorisation.authpct import authpct
from elucid.evaluation.memorisation.ct import DataCopying, InCells, Partition, data_copying
from elucid.evaluation.memorisation.nearest import Nearest, nearest
from elucid.evaluation.memorisation.planted import PARTS, number
from elucid.evaluation.memorisation.shares import Share, probability_nearer, share_nearer, wilson

QUANTILES = (0.05, 0.01)
"""Quantiles of the held-out images' distances below which samples are counted."""

MOST_CELLS, IMAGES_PER_CELL = 50, 100


@dataclass(frozen=True)
class Around:
    """Of images: distances f64[N] to the nearest training image, its radius f64[N], and where they lie in the cells.

    The radius is the training image's distance to the nearest other one.
    """

    distances: np.ndarray
    radii: np.ndarray
    within: InCells

    @property
    def ratios(self) -> np.ndarray:
        """Distance by radius: below 1 the sample is nearer to a training image than any other training image is."""
        apart = np.where(self.distances > 0, math.inf, 0.0)
        return np.divide(self.distances, self.radii, out=apart, where=self.radii > 0)

    def planted(self, places: np.ndarray, copies: "Around") -> "Around":
        """Return the images with those at `places` replaced by the first of `copies`."""
        kept = np.ones(len(self.distances), bool)
        kept[places] = False
        first = slice(len(places))
        return Around(
            np.concatenate([self.distances[kept], copies.distances[first]]),
            np.concatenate([self.radii[kept], copies.radii[first]]),
            self.within.joined(kept, InCells(copies.within.cells[first], copies.within.distances[first])),
        )


@dataclass(frozen=True)
class Measures:
    """The measures of one set of samples."""

    shares: tuple[Share | None, ...]
    nearer: tuple[float, tuple[float, float]]
    copying: DataCopying
    authentic: float
    authentic_interval: tuple[float, float]

    @classmethod
    def of(cls, samples: Around, held_out: Around, cells: int) -> "Measures":
        shares = tuple(share_nearer(samples.distances, held_out.distances, part) for part in QUANTILES)
        authentic = authpct(samples.distances, samples.radii)
        low, high = wilson(authentic / 100, len(samples.distances))
        return cls(
            shares,
            probability_nearer(samples.distances, held_out.distances),
            data_copying(samples.within, held_out.within, cells),
            authentic,
            (100 * low, 100 * high),
        )


class Landscape:
    """The training features f32[M,D], on a device, with a partition into cells."""

    def __init__(self, train: Tensor, cells: int, seed: int = 0):
        self.train, self.partition = train, Partition(train, cells, seed)

    def nearest(self, features: Tensor, k: int, title: str | None = None) -> Nearest:
        """Return the k nearest training images of images with these features [N,D]."""
        return nearest(features.to(self.train.device), self.train, k, title=title)

    def around(self, features: Tensor, found: Nearest | None = None) -> Around:
        """Return distances of images with these features [N,D]; `found` are their nearest training images, if known."""
        found = self.nearest(features, 1) if found is None else found
        rows, places = found.indices[:, 0].unique(return_inverse=True)
        radii = nearest(self.train[rows], self.train, exclude=rows, title="training images").distances[:, 0]
        within = self.partition(features.to(self.train.device))
        return Around(found.distances[:, 0].cpu().numpy(), radii[places].cpu().numpy(), within)


def control(
    samples: Around, held_out: Around, copies: Mapping[str, Around], places: np.ndarray, cells: int
) -> Iterator[tuple[str, int, Measures]]:
    """Yield the measures with copies of each kind planted at 1, 5 and 20 %: kind, number of copies, measures."""
    for kind, around in copies.items():
        for part in PARTS:
            count = number(len(samples.distances), part)
            yield kind, count, Measures.of(samples.planted(places[:count], around), held_out, cells)


def cells_for(samples: int, held_out: int) -> int:
    """Return the default number of cells: one for each 100 images of the smaller set, at most 50."""
    return min(MOST_CELLS, max(1, min(samples, held_out) // IMAGES_PER_CELL))
