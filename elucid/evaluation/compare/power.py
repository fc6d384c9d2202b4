"""How many trainings would settle an open comparison."""

import numpy as np
from scipy import stats

from elucid.evaluation.compare.verdict import UNDECIDED, Rules, Verdict

WANTED = 0.8
"""Probability with which the estimate settles the question."""
MOST = 100_000


def settles(sizes: np.ndarray, gap: float, rules: Rules) -> np.ndarray:
    """Return the probability that the fixed test settles a true gap, in standard deviations, for sizes of both groups.

    It is settled by "different", or by "not different" where the gap of the rules would have been missed with
    probability `rules.beta` (Student's noncentral t; for more than 100 trainings the normal distribution).
    """
    sizes = np.asarray(sizes, dtype=float)
    shift, planned = gap * np.sqrt(sizes / 2), rules.gap * np.sqrt(sizes / 2)
    small = sizes <= 100
    df = np.where(small, 2 * sizes - 2, np.inf)
    found_above = stats.t.isf(rules.alpha / 2, df)
    given_up_below = np.where(
        small, _noncentral_quantile(rules.beta, df, planned), stats.norm.ppf(rules.beta) + planned
    )

    def between(limit: np.ndarray) -> np.ndarray:
        """Probability of |t| below a limit."""
        normal = stats.norm.cdf(limit - shift) - stats.norm.cdf(-limit - shift)
        own = np.where(small, df, 1.0)
        exact = stats.nct.cdf(limit, own, shift) - stats.nct.cdf(-limit, own, shift)
        return np.where(small, exact, normal)

    return 1 - between(found_above) + between(np.clip(given_up_below, 0, found_above))


def _noncentral_quantile(share: float, df: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return stats.nct.ppf(share, np.where(np.isfinite(df), df, 1.0), shift)


def trainings_to_settle(gap: float, rules: Rules) -> int | None:
    """Return how many trainings of each recipe settle a true gap, in standard deviations, four times in five.

    None if even 100,000 do not.
    """
    sizes = np.unique(np.concatenate([np.arange(2, 101), np.geomspace(101, MOST, 300).round()])).astype(int)
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
