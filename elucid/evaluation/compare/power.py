"""How many trainings would settle an open comparison."""

import numpy as np
from scipy import stats

from elucid.evaluation.compare.evidence import Statistic, log_evidence
from elucid.evaluation.compare.verdict import UNDECIDED, Rules, Verdict

WANTED = 0.8
"""Probability with which the estimate settles the question."""
SMALL, MOST = 100, 100_000


def settles(sizes: np.ndarray, gap: float, rules: Rules) -> np.ndarray:
    """Return the probability that the fixed test settles a true gap, in standard deviations, for sizes of both groups.

    By noncentral t with the mean of Welch's degrees of freedom; for more than 100 trainings by the normal distribution.
    """
    sizes = np.asarray(sizes, dtype=float)
    shift, small = gap * np.sqrt(sizes / 2), sizes <= SMALL
    df = np.where(small, 2 * (sizes - 1) * sizes / (sizes + 1), np.inf)
    found_above = stats.t.isf(rules.alpha / 2, df)
    given_up_below = np.where(small, _given_up_below(np.minimum(sizes, SMALL), rules), _of_many(sizes, rules))

    def between(limit: np.ndarray) -> np.ndarray:
        """Probability of |t| below a limit."""
        normal = stats.norm.cdf(limit - shift) - stats.norm.cdf(-limit - shift)
        own = np.where(small, df, 1.0)
        exact = stats.nct.cdf(limit, own, shift) - stats.nct.cdf(-limit, own, shift)
        return np.where(small, exact, normal)

    return 1 - between(found_above) + between(np.clip(given_up_below, 0, found_above))


def _given_up_below(sizes: np.ndarray, rules: Rules) -> np.ndarray:
    """Return the |t| at which the evidence for the gap of the rules is `rules.beta`; 0 if it is never so low."""
    df = 2 * (sizes - 1) * sizes / (sizes + 1)
    low, high = np.zeros_like(sizes), np.full_like(sizes, 20.0 * rules.gap)
    for _ in range(40):
        middle = (low + high) / 2
        below = log_evidence(Statistic(middle, 1.0, df, sizes / 2), rules.gap) <= np.log(rules.beta)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


def _of_many(sizes: np.ndarray, rules: Rules) -> np.ndarray:
    """Return the same for normal densities, whose ratio is exp(z s - s^2 / 2) / 2 with the shift s."""
    shift = rules.gap * np.sqrt(sizes / 2)
    return shift / 2 + np.log(2 * rules.beta) / shift


def trainings_to_settle(gap: float, rules: Rules) -> int | None:
    """Return how many trainings of each recipe settle a true gap, in standard deviations, four times in five.

    None if even 100,000 do not.
    """
    sizes = np.unique(np.concatenate([np.arange(2, SMALL + 1), np.geomspace(SMALL + 1, MOST, 300).round()])).astype(int)
    enough = settles(sizes, abs(gap), rules) >= WANTED
    return int(sizes[enough.argmax()]) if enough.any() else None


def more_trainings(verdict: Verdict) -> int | None:
    """Return how many more trainings of each recipe would settle it, if the difference is what it is now.

    None unless the verdict is "undecided"; at least 1.
    """
    if verdict.outcome != UNDECIDED or verdict.deviation == 0:
        return None
    wanted = trainings_to_settle(verdict.difference / verdict.deviation, verdict.rules)
    return None if wanted is None else max(1, wanted - min(verdict.first.size, verdict.second.size))
