"""The tables and the calibration curve of classifiers trained on several sets."""

from collections.abc import Mapping, Sequence

import numpy as np

from elucid.evaluation.cas.scores import LIMITS, SHARES, Scores, Summary, summarise
from elucid.evaluation.results import Curve, Series, Table

LABELS = {"top1": "top-1 %", "top5": "top-5 %", "auroc": "AUROC", "ece": "ECE %"}

Found = Mapping[str, Sequence[Scores]]
"""Scores of the classifiers of each set, in the order of their seeds."""


def summary_of(scores: Sequence[Scores], name: str, test_images: int) -> Summary:
    """Summarise one score over seeds."""
    share_of = test_images if name in SHARES else None
    return summarise([getattr(one, name) for one in scores], share_of, LIMITS[name])


def score_table(found: Found, test_images: int) -> Table:
    """Return a row for each set and score: mean, standard deviation and interval."""
    rows = []
    for which, scores in found.items():
        for name, label in LABELS.items():
            if getattr(scores[0], name) is not None:
                one = summary_of(scores, name, test_images)
                rows.append((which, label, one.mean, one.deviation, one.low, one.high))
    columns = ("trained on", "score", "mean", "deviation", "95 % low", "95 % high")
    return Table("scores on real test images", columns, tuple(rows))


def class_table(found: Found, names: Sequence[str], counts: Sequence[int]) -> Table:
    """Return the mean top-1 of each class, for all sets."""
    means = [np.mean([one.per_class for one in scores], axis=0).tolist() for scores in found.values()]
    rows = zip(names, counts, *means, strict=True)
    return Table("top-1 % of each class", ("class", "test images", *found), tuple(rows))


def calibration_curve(found: Found) -> Curve:
    """Return accuracy by confidence, both in percent, over the images of all seeds."""
    series = []
    for which, scores in found.items():
        points = []
        for bins in zip(*(one.bins for one in scores), strict=True):
            total = sum(count for count, _, _ in bins)
            if total:
                means = [100 * sum(one[0] * one[column] for one in bins) / total for column in (1, 2)]
                points.append((means[0], means[1]))
        series.append(Series(which, tuple(points)))
    return Curve("calibration", "confidence in %", "accuracy in %", tuple(series))


def difference_line(found: Found) -> str | None:
    """Say how much synthetic images lack, from pairs of the same seed; None without both sets or with one seed."""
    if not {"real", "synthetic"} <= found.keys() or len(found["real"]) < 2:
        return None
    pairs = zip(found["synthetic"], found["real"], strict=True)
    one = summarise([synthetic.top1 - real.top1 for synthetic, real in pairs])
    return f"top-1 % of synthetic minus real: {one.mean:.2f} (95 % interval {one.low:.2f} to {one.high:.2f})"
