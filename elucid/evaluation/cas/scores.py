"""Scores of a classifier on a test set, and their mean and interval over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from elucid.metrics.wilson import interval as wilson

Limits = tuple[float, float]

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017."""
SHARES = ("top1", "top5")
LIMITS: dict[str, Limits] = {"top1": (0, 100), "top5": (0, 100), "auroc": (0, 1), "ece": (0, 100)}


@dataclass(frozen=True)
class Scores:
    """Scores in percent but for `auroc`, from 0 to 1.

    `top1` and `top5`: the share of images whose class has the largest, or one of the five largest logits; `top5` is
    None for five classes or fewer. `auroc`: area under the curve of each class against all others, the mean over
    classes, which does not depend on how frequent they are. `ece`: expected calibration error, sum_m |B_m|/n |acc(B_m)
    - conf(B_m)| over `BINS` bins of equal width of the largest probability (Guo et al. 2017, eq. 3). `per_class`:
    `top1` of each class. `bins`: number, mean confidence and accuracy in each bin.
    """

    top1: float
    top5: float | None
    auroc: float
    ece: float
    per_class: tuple[float, ...]
    bins: tuple[tuple[int, float, float], ...]

    @classmethod
    def of_dict(cls, values: dict[str, Any]) -> "Scores":
        return cls(**{**values, "per_class": tuple(values["per_class"]), "bins": tuple(map(tuple, values["bins"]))})


def score(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Compute the scores of logits [N,K] for class numbers [N]; each class must occur."""
    from sklearn.metrics import roc_auc_score  # slow to import

    classes = logits.shape[1]
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    right = predicted == labels
    own = logits[np.arange(len(labels)), labels]
    better = (logits > own[:, None]).sum(axis=1)
    against = [roc_auc_score(labels == index, probabilities[:, index]) for index in range(classes)]
    bins = calibration(probabilities.max(axis=1), right)
    return Scores(
        top1=100 * float(right.mean()),
        top5=100 * float((better < 5).mean()) if classes > 5 else None,
        auroc=float(np.mean(against)),
        ece=100 * sum(count / len(labels) * abs(accuracy - confidence) for count, confidence, accuracy in bins),
        per_class=tuple(100 * float(right[labels == index].mean()) for index in range(classes)),
        bins=bins,
    )


def calibration(confidence: np.ndarray, right: np.ndarray) -> tuple[tuple[int, float, float], ...]:
    """Return number, mean confidence and accuracy of the images in each bin; zeros for an empty one."""
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    found = []
    for index in range(BINS):
        inside = places == index
        count = int(inside.sum())
        found.append((count, float(confidence[inside].mean()), float(right[inside].mean())) if count else (0, 0.0, 0.0))
    return tuple(found)


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over seeds, and the limits of a 95 % interval; None for what is not known."""

    mean: float
    deviation: float | None
    low: float | None
    high: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


def summarise(values: Sequence[float], share_of: int | None = None, within: Limits = (-inf, inf)) -> Summary:
    """Return the mean over seeds with Student's interval, mean +- t s / sqrt(n), cut to the limits `within`.

    For one seed the interval is Wilson's of a share, in percent, of `share_of` test images, or else unknown: the first
    says how another training would differ, the second how another test set would.
    """
    mean = statistics.fmean(values)
    if len(values) == 1:
        limits = (None, None) if share_of is None else (100 * x for x in wilson(mean / 100, share_of))
        return Summary(mean, None, *limits)
    from scipy.stats import t

    deviation = statistics.stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    return Summary(mean, deviation, max(mean - half, within[0]), min(mean + half, within[1]))
