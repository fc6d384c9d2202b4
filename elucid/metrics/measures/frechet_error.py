"""How sure a Fréchet distance is, and what it tends to for many images."""

import math

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.metrics.frechet import frechet_distance, nonzero, symmetric_factor
from elucid.metrics.statistics import FeatureStatistics

POINTS = 15
CHUNK = 4096


def frechet_error(features: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Standard error of the Fréchet distance of features [N,D] to a fixed Gaussian, by the infinitesimal jackknife.

    The standard deviation over images, divided by sqrt N, of the distance's derivative in the weight of an image x,
    2 (m_a - m_b)^T d + |d|^2 - d^T L (L^T A L)^(-1/2) L^T d, where d = x - m_a and B = L L^T (Efron 1982, chapter 6).
    It says how the distance varies over sets of as many images, not how much it falls with more.
    """
    statistics = FeatureStatistics(features.shape[1], features.device)
    for part in features.split(CHUNK):
        statistics.update(part)
    own_mean, own = statistics.mean, statistics.covariance
    mean, factor = mean.to(own_mean), symmetric_factor(covariance.cpu().double()).to(own_mean)
    values, vectors = torch.linalg.eigh(factor.T @ own @ factor)
    kept = nonzero(values)
    # |(L^T A L)^(-1/4) L^T d|^2 is the last term.
    transport = factor @ vectors[:, kept] * values[kept].pow(-0.25)
    influences = []
    for part in features.split(CHUNK):
        d = part.to(own_mean) - own_mean
        influences.append(2 * d @ (own_mean - mean) + d.square().sum(1) - (d @ transport).square().sum(1))
    return float(torch.cat(influences).std() / math.sqrt(len(features)))


def frechet_at_infinity(features: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """The Fréchet distance extrapolated to infinitely many images, from features [N,D].

    The intercept of a line through the distances of 15 random subsets, of N/10 to N images, over 1 / their size (Chong
    & Forsyth 2020, arXiv 1911.07023). It removes most of the bias, not the chance; it may be below 0. Raises UserError
    below 4 D images, where the distance is not yet a line.
    """
    num, dim = features.shape
    if num < 4 * dim:
        raise UserError(
            f"fid_inf needs at least {4 * dim} images for {dim} dimensions, not {num}; generate more, or leave it out"
        )
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    sizes = np.linspace(max(num // 10, 2 * dim), num, POINTS).round().astype(int)
    distances = []
    for index, size in enumerate(sizes):
        statistics = FeatureStatistics(dim, features.device)
        for part in order.roll(index * num // POINTS)[:size].split(CHUNK):
            statistics.update(features[part.to(features.device)])
        distances.append(frechet_distance(statistics.mean, statistics.covariance, mean, covariance))
    return float(np.polyfit(1 / sizes, distances, 1)[1])
