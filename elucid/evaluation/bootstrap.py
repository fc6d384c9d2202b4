"""Confidence intervals by resampling whole conditions or images, whose pixels are not independent."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
FEW = 20
"""Rows below which an interval is rough, and somewhat too narrow."""

_AT_ONCE = 1 << 22  # weights


class Interval(NamedTuple):
    """Estimates [S] and the limits [S] of their 95 % intervals; the limits are NaN if there is only one row."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> Interval:
    """Return a statistic of the mean of rows [N,D] with its 95 % interval, by drawing N rows with replacement.

    `statistic` maps means [...,D] to numbers [...,S]. The limits are BCa ones (Efron 1987), which are right to second
    order for skewed statistics, too, of 2000 draws that depend on N and `seed` alone, at expanded quantiles (Hesterberg
    2015): without them intervals of few rows are too narrow, as that of a mean with 1.96 for Student's t is. Rows must
    be independent of each other: one for each condition or image, never one for each pixel.
    """
    from scipy.special import ndtr, ndtri, stdtrit  # here, as help should not wait for scipy

    value = np.asarray(statistic(values.mean(0)))
    num = len(values)
    if num < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    random = np.random.default_rng([seed, num])
    shares, parts, left = np.full(num, 1 / num), [], RESAMPLES
    while left:
        count = min(left, max(1, _AT_ONCE // num))
        weights = random.multinomial(num, shares, size=count)
        parts.append(statistic(weights @ values / num))
        left -= count
    drawn = np.concatenate(parts)
    below = ((drawn < value).sum(0) + 0.5 * (drawn == value).sum(0)) / RESAMPLES
    bias = ndtri(np.clip(below, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    without = statistic((values.sum(0) - values) / (num - 1))
    away = without.mean(0) - without
    squares = (away**2).sum(0) ** 1.5
    skew = np.divide((away**3).sum(0), 6 * squares, out=np.zeros_like(squares), where=squares > 0)
    limits, expanded = [], float(stdtrit(num - 1, 0.975)) * math.sqrt(num / (num - 1))
    for z in (-expanded, expanded):
        places = ndtr(bias + (bias + z) / (1 - skew * (bias + z)))
        limits.append(np.array([np.quantile(column, at) for column, at in zip(drawn.T, places, strict=True)]))
    return Interval(value, *limits)
