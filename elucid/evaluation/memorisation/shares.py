"""How many samples are nearer to training images than held-out images are."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import betabinom, norm

DRAWS = 4000
"""Draws of the threshold for an interval."""


@dataclass(frozen=True)
class Share:
    """The share of samples below a quantile of the held-out images' distances, with a 95 % interval.

    `expected` is the share of further held-out images, and `chance` the probability that at least as many of them would
    be below it: the p-value of an exact one-sided test. `normal` holds the limits that 95 % of such sets keep.
    """

    value: float
    interval: tuple[float, float]
    expected: float
    chance: float
    normal: tuple[float, float]


def share_nearer(samples: np.ndarray, held_out: np.ndarray, part: float) -> Share | None:
    """Return the share of `samples` f64[N] below the threshold under which a `part` of `held_out` f64[M] lies.

    Both are distances to the nearest training image. The threshold is the j-th smallest held-out distance, j = part
    (M + 1), rounded. If samples are like held-out images, the number below it has a beta-binomial distribution with
    parameters N, j, M + 1 - j, and the expected share is j / (M + 1). None if j is 0: too few held-out images.
    """
    count, rank = len(samples), round(part * (len(held_out) + 1))
    if rank < 1:
        return None
    far, near = np.sort(held_out), np.sort(samples)
    below = int(np.searchsorted(near, far[rank - 1], side="left"))
    likely = betabinom(count, rank, len(far) + 1 - rank)
    # The interval allows for both sets: the threshold of another held-out set, and other samples.
    random = np.random.default_rng(0)
    places = np.minimum((random.beta(rank, len(far) + 1 - rank, DRAWS) * len(far)).astype(int), len(far) - 1)
    others = np.searchsorted(near, far[places], side="left")
    shares = random.beta(others + 0.5, count - others + 0.5)
    low, high = np.quantile(shares, (0.025, 0.975))
    limits = (float(likely.ppf(0.025)) / count, float(likely.ppf(0.975)) / count)
    return Share(
        value=below / count,
        interval=(min(float(low), below / count), max(float(high), below / count)),
        expected=rank / (len(far) + 1),
        chance=float(likely.sf(below - 1)),
        normal=limits,
    )


def probability_nearer(samples: np.ndarray, held_out: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return P(a sample is nearer to the training images than a held-out image), ties half, and a 95 % interval.

    This is U / (N M) of Mann and Whitney; 0.5 for samples like held-out images. The standard error is that of DeLong et
    al. 1988, the interval Wilson's with the number of images that gives this error.
    """
    far, near = np.sort(held_out), np.sort(samples)
    of_samples = 1 - _below(far, near)  # of each sample: the part of the held-out images that is farther
    of_held_out = _below(near, far)
    value = float(of_samples.mean())
    variance = of_samples.var(ddof=1) / len(near) + of_held_out.var(ddof=1) / len(far)
    size = value * (1 - value) / variance if variance > 0 else min(len(near), len(far))
    return value, wilson(value, size)


def wilson(share: float, num: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of `num` images, which need not be an integer (Wilson 1927)."""
    z2 = norm.ppf(0.975) ** 2
    centre, half = share + z2 / (2 * num), math.sqrt(z2 * (share * (1 - share) / num + z2 / (4 * num**2)))
    return max(0.0, (centre - half) / (1 + z2 / num)), min(1.0, (centre + half) / (1 + z2 / num))


def _below(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the part of the sorted `values` below each of `at`, equal ones half."""
    return (np.searchsorted(values, at, "left") + np.searchsorted(values, at, "right")) / (2 * len(values))
