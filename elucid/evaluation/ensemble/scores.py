"""Scores of an ensemble at each position: CRPS and rank of the truth; and the energy score of whole fields.

All take deviations of the K members from the truth, float64 [K,...], so that large offsets cost no digits.
"""

import numpy as np


def crps(deviations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the continuous ranked probability score [...] of K members, plain and fair, in their unit; 0 is best.

    mean_k |x_k - y| - sum_jk |x_j - x_k| / (2 K^2) is the score of the members as a step distribution (Gneiting &
    Raftery 2007, eq. 21); the fair one divides by 2 K (K - 1) and is an unbiased estimate of the score of the
    distribution that the members are drawn from (Ferro 2014). The sum is taken over sorted members, in O(K log K).
    """
    num = len(deviations)
    ordered = np.sort(deviations, axis=0)
    pairs = np.tensordot(np.arange(1 - num, num, 2, dtype=np.float64), ordered, axes=1)  # of x_k - x_j with j < k
    distance = np.abs(deviations).mean(0)
    return distance - pairs / num**2, distance - pairs / (num * (num - 1))


def ranks(deviations: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the rank of the truth among K members, int [...] from 0 (below all) to K.

    Among members that equal the truth its place is drawn, each with the same probability (Hamill 2001), so that the
    ranks of a calibrated ensemble are uniform for rounded values as well.
    """
    below, equal = (deviations < 0).sum(0), (deviations == 0).sum(0)
    return below + random.integers(0, equal, endpoint=True)


def energy_score(products: np.ndarray) -> float:
    """Return the fair energy score of K members; `products` [K,K] are mean products of their deviations.

    mean_k |x_k - y| - sum_jk |x_j - x_k| / (2 K (K - 1)), where |.| is the root of the mean square over the positions
    (Gneiting & Raftery 2007, eq. 22). It is the CRPS of whole fields: it sees, if weakly, whether positions belong
    together.
    """
    num, squares = len(products), np.diag(products)
    between = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))
    return float(np.sqrt(squares).mean() - between.sum() / (2 * num * (num - 1)))
