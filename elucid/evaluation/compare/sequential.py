"""A sequential test of two groups of trainings: it looks after each new pair and stops when the answer is settled.

At each look the evidence for a gap (see `evidence`) is compared with two limits. The limits come from simulated
comparisons with normal noise, which are free of scale, so that false alarms and misses are as often as wished. Where it
stops, an ordinary interval would be too short; its level comes from the same simulation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from elucid.evaluation.compare.evidence import Statistic, log_evidence, log_evidence_of_any, welch

PATHS = 10_000
"""Simulated comparisons: an error rate of 2.5 % is met to 0.2 %."""
GAPS = (0.0, 0.5, 1.0, 2.0)
"""True gaps, in design gaps, in which the interval covers the truth."""


@dataclass(frozen=True)
class Design:
    """A sequential test.

    `looks` are the sizes (n1, n2) at which it looks. It says "different" if the evidence for a gap reaches `upper`, and
    "not different" if that for the gap of the design falls to `lower`. `level` is the two-sided tail probability of an
    interval at the look where it stops, `power` the share of simulated comparisons with the gap in which it is found,
    and `looks_used` the mean number of looks without and with it.
    """

    looks: tuple[tuple[int, int], ...]
    gap: float
    alpha: float
    beta: float
    upper: float
    lower: float
    level: float
    power: float
    looks_used: tuple[float, float]

    def answer(self, found: Statistic) -> str | None:
        """Return the answer at a look, None if it is not settled."""
        if log_evidence_of_any(found, self.gap) >= self.upper:
            return "different"
        return "not different" if log_evidence(found, self.gap) <= self.lower else None


@dataclass(frozen=True)
class Paths:
    """Evidence of simulated comparisons, [paths, looks], and what a look says of the true gap: a p-value of it."""

    any_gap: np.ndarray
    one_gap: np.ndarray
    p_of_truth: np.ndarray

    def stops(self, upper: float, lower: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the look at which each stops (the last one if it is never settled), and whether a gap is found."""
        found, given_up = self.any_gap >= upper, self.one_gap <= lower
        settled = found | given_up
        at = np.where(settled.any(axis=1), settled.argmax(axis=1), settled.shape[1] - 1)
        return at, found[np.arange(len(at)), at]


@lru_cache(maxsize=16)
def design(
    looks: tuple[tuple[int, int], ...], gap: float = 2.0, alpha: float = 0.025, beta: float = 0.025, seed: int = 0
) -> Design:
    """Return the test with false alarms `alpha` and misses `beta` of a gap of `gap` standard deviations.

    A miss is a "not different" that is false; with few looks the rest of the undetected gaps stays undecided.
    """
    rng = np.random.default_rng(seed)
    noise = [rng.standard_normal((PATHS, max(look[side] for look in looks))) for side in (0, 1)]
    paths = [simulated(noise, looks, gap, times * gap) for times in GAPS]
    none, one = paths[0], paths[GAPS.index(1.0)]
    upper, lower = np.inf, -np.inf
    for _ in range(4):  # each limit hardly depends on the other
        lower = _limit(lambda value, high=upper: float(_missed(one, high, value)), beta, -20.0, 0.0)
        upper = -_limit(lambda value, low=lower: float(none.stops(-value, low)[1].mean()), alpha, -20.0, 0.0)
    stopped = [one_of.stops(upper, lower) for one_of in paths]
    rows = np.arange(PATHS)
    tails = [np.quantile(one_of.p_of_truth[rows, at], alpha) for one_of, (at, _) in zip(paths, stopped, strict=True)]
    at_none, (at_one, found) = stopped[0][0], stopped[GAPS.index(1.0)]
    used = (float(at_none.mean()) + 1, float(at_one.mean()) + 1)
    return Design(looks, gap, alpha, beta, upper, lower, float(min(tails)), float(found.mean()), used)


def simulated(noise: Sequence[np.ndarray], looks: Sequence[tuple[int, int]], gap: float, truth: float) -> Paths:
    """Return the evidence of comparisons with unit normal noise [paths, size] of both sides and a true gap."""
    found = [
        welch(
            [part.mean(axis=1) + shift for part, shift in zip(parts, (0.0, truth), strict=True)],
            [part.var(axis=1, ddof=1) for part in parts],
            look,
        )
        for look in looks
        for parts in [[side[:, :size] for side, size in zip(noise, look, strict=True)]]
    ]
    columns = [
        (
            log_evidence_of_any(one, gap),
            log_evidence(one, gap),
            2 * stats.t.sf(np.abs(one.difference - truth) / one.error, one.df),
        )
        for one in found
    ]
    return Paths(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))


def _missed(paths: Paths, upper: float, lower: float) -> float:
    """Return the share of comparisons that stop with "not different"."""
    found, given_up = paths.any_gap >= upper, paths.one_gap <= lower
    at, is_found = paths.stops(upper, lower)
    return float((given_up[np.arange(len(at)), at] & ~is_found & (found | given_up)[np.arange(len(at)), at]).mean())


def _limit(rate, wanted: float, low: float, high: float) -> float:
    """Return the largest value in a range at which a growing rate is at most as wanted."""
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) <= wanted else (low, middle)
    return low
