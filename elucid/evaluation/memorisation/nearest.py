"""Exact nearest neighbours, in blocks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.dnnlib.progress import progress_bar

CHUNK = 1 << 23
"""Distances that are in memory at once."""


@dataclass(frozen=True)
class Nearest:
    """Distances f64[N,k] to the k nearest of other points, ascending, and the indices i64[N,k] of these."""

    distances: Tensor
    indices: Tensor

    def __getitem__(self, rows) -> "Nearest":
        return Nearest(self.distances[rows], self.indices[rows])


def nearest(
    points: Tensor, others: Tensor, k: int = 1, exclude: Tensor | None = None, title: str | None = None
) -> Nearest:
    """Find the k nearest of `others` [M,D] to each of `points` [N,D], by Euclidean distance in float64.

    `exclude` i64[N] are indices of `others` that do not count, such as the point itself. The distance of equal points
    is exactly 0. Memory does not grow with N times M. `title` names the progress bar. Raises ValueError if there are
    fewer than k.
    """
    if len(others) - (exclude is not None) < k:
        raise ValueError(f"{len(others)} points have no {k} nearest")
    others = others.double()
    shift = others.mean(0)
    centred = others - shift  # smaller norms, smaller rounding errors
    norms, size = centred.square().sum(1), max(1, CHUNK // len(others))
    distances, indices = [], []
    with progress_bar(total=len(points), desc=title or "nearest", delay=2, disable=title is None) as bar:
        for start in range(0, len(points), size):
            part = points[start : start + size].double()
            products = torch.addmm(norms, part - shift, centred.T, alpha=-2)
            if exclude is not None:
                products[torch.arange(len(part), device=part.device), exclude[start : start + size]] = math.inf
            found = products.topk(k, dim=1, largest=False).indices
            # Of the found ones, without the rounding errors of norms and products.
            exact = torch.stack([(others[column] - part).square().sum(1) for column in found.T], dim=1).sqrt()
            order = exact.argsort(dim=1, stable=True)
            distances.append(exact.gather(1, order))
            indices.append(found.gather(1, order))
            bar.update(len(part))
    if not distances:
        return Nearest(others.new_zeros(0, k), torch.zeros(0, k, dtype=torch.int64, device=others.device))
    return Nearest(torch.cat(distances), torch.cat(indices))
