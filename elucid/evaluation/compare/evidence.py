"""Student's statistic of two groups of trainings, and the evidence in it for a gap against none."""

from dataclasses import dataclass

import numpy as np
from scipy import special, stats


@dataclass(frozen=True)
class Statistic:
    """Difference of the means of two groups, second minus first, with Welch's standard error and degrees of freedom.

    `weight` is 1 / (1/n1 + 1/n2) for groups of n1 and n2. Fields are numbers or arrays of the same shape.
    """

    difference: np.ndarray | float
    error: np.ndarray | float
    df: np.ndarray | float
    weight: np.ndarray | float

    @property
    def t(self) -> np.ndarray | float:
        return self.difference / self.error


def welch(means, variances, sizes) -> Statistic:
    """Return Welch's statistic (1947) from pairs of means, unbiased variances and sizes of at least 2."""
    parts = [variance / size for variance, size in zip(variances, sizes, strict=True)]
    total = parts[0] + parts[1]
    df = total**2 / (parts[0] ** 2 / (sizes[0] - 1) + parts[1] ** 2 / (sizes[1] - 1))
    return Statistic(means[1] - means[0], total**0.5, df, 1 / (1 / sizes[0] + 1 / sizes[1]))


def log_evidence(found: Statistic, gap: float):
    """Return the log likelihood ratio of |t| for a gap of +-`gap` standard deviations against none.

    The ratio of the densities of noncentral and central Student's t, both signs together, is
    exp(-c/2) 1F1((df+1)/2; 1/2; c/2 t^2/(t^2 + df)) with c = gap^2 / (1/n1 + 1/n2): the sequential t-test of Rushton
    (1952) and Hajnal (1961), here with Welch's degrees of freedom. Infinitely many of them, of a known deviation, give
    the ratio of normal densities.
    """
    square, noncentrality = np.square(found.t), gap**2 * np.asarray(found.weight)
    if np.ndim(found.df) == 0 and np.isinf(found.df):
        size = np.sqrt(square * noncentrality)
        return np.logaddexp(size, -size) - np.log(2) - noncentrality / 2
    share = square / (square + found.df)
    with np.errstate(over="ignore"):
        return (
            np.log(special.hyp1f1((np.asarray(found.df) + 1) / 2, 0.5, noncentrality * share / 2)) - noncentrality / 2
        )


def log_evidence_of_any(found: Statistic, gap: float):
    """Return the log of the mean likelihood ratio of the gap and of twice the gap.

    The second lets a large gap be seen in few trainings: the ratio of one gap alone is bounded at each size.
    """
    return np.logaddexp(log_evidence(found, gap), log_evidence(found, 2 * gap)) - np.log(2)


def p_value(found: Statistic):
    """Return the two-sided p-value of Welch's test."""
    return 2 * stats.t.sf(np.abs(found.t), found.df)
