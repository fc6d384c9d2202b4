"""How often the truth lies in the central intervals of an ensemble, from its ranks."""

import numpy as np

LEVELS = (0.5, 0.8, 0.9, 0.95)


def weights(level: float, members: int) -> np.ndarray | None:
    """Return the share [K+1] of each rank's cases that lie in the central interval of a level; None if K is too small.

    The ranks of a calibrated ensemble of K members are uniform, so each stands for 1 / (K + 1) of the distribution of
    the truth, and an interval that ends between two members takes a part of that rank's cases. So the expected coverage
    is the level itself for any K, which is not so for quantiles of the members. An interval that reaches beyond the
    outermost members is not known: it takes K >= 2 / (1 - level) - 1, for 95 % 39 members.
    """
    low = (1 - level) / 2 * (members + 1)
    if low < 1 - 1e-9:
        return None
    start = np.arange(members + 1)
    return np.clip(np.minimum(start + 1, members + 1 - low) - np.maximum(start, low), 0, 1)


def needed(level: float) -> int:
    """Return how many members an interval of a level takes."""
    return int(np.ceil(2 / (1 - level) - 1 - 1e-9))


def intervals(members: int) -> dict[float, np.ndarray]:
    """Return the weights [K+1] by level: of LEVELS those that K members can tell, and that of all members."""
    found = {level: weights(level, members) for level in LEVELS}
    whole = (members - 1) / (members + 1)
    known = {level: one for level, one in found.items() if one is not None}
    of_all = weights(whole, members)
    return known if of_all is None else known | {whole: of_all}
