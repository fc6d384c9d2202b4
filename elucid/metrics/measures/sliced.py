"""The Monge inception distance, a sliced Wasserstein distance."""

import numpy as np
import torch
from torch import Tensor

DIRECTIONS = 1000
GROUP = 100
"""Directions whose projections are in memory at once."""

CHUNK = 4096


def monge_distance(generated: Tensor, reference: Tensor, directions: int = DIRECTIONS) -> float:
    """3 D times the mean squared Wasserstein distance of u.x and u.y over directions u, of features [N,D] and [M,D].

    The MIND of Berthet et al. 2026 (arXiv 2605.06797): of n images in each set the squared distance along u is
    1/n sum_j (u.x_(j) - u.y_(j))^2 of the sorted projections, and u is uniform on the unit sphere. The directions are
    drawn with a fixed seed. Of the larger set a fixed random subset of n counts. At least 0, and above it for two sets
    of one distribution; it falls with n.
    """
    num, dim = min(len(generated), len(reference)), generated.shape[1]
    random = np.random.RandomState(0)
    vectors = torch.from_numpy(random.randn(directions, dim))
    vectors = (vectors / vectors.norm(dim=1, keepdim=True)).to(generated.device)
    total = 0.0
    sets = [_subset(features, num) for features in (generated, reference)]
    for part in vectors.split(GROUP):
        one, other = (_sorted_projections(features, part) for features in sets)
        total += float((one - other).square().mean(0).sum())
    return 3 * dim * total / directions


def _subset(features: Tensor, num: int) -> Tensor:
    if len(features) == num:
        return features
    return features[torch.from_numpy(np.random.RandomState(1).permutation(len(features))[:num]).to(features.device)]


def _sorted_projections(features: Tensor, vectors: Tensor) -> Tensor:
    """f64[N,directions], each column sorted."""
    return torch.cat([part.double() @ vectors.T for part in features.split(CHUNK)]).sort(0).values
