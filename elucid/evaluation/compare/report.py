"""Tables, plots and lines of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from elucid.evaluation.compare.groups import LOTTERY, Group
from elucid.evaluation.compare.sentence import percent, sentence
from elucid.evaluation.compare.verdict import Verdict
from elucid.evaluation.results import Curve, Result, Series, Table
from elucid.metrics.measures.names import HIGHER_IS_BETTER


def lower_is_better(metric: str) -> bool:
    """Return whether lower values of a metric, without the number of images in its name, are better."""
    return metric not in HIGHER_IS_BETTER


def result_of(
    verdicts: Mapping[str, Sequence[Verdict]],
    groups: Mapping[str, Sequence[Group]],
    notes: Sequence[str],
    about: dict[str, Any],
    seconds: float | None = None,
    jobs: int = 1,
) -> Result:
    """Return the result: for each metric a table of groups, one of differences, and a plot; the sentences last.

    The first metric decides: the last line is the sentence on the last group by it. `value` is that difference.
    """
    first = next(iter(verdicts))
    tables = [table for metric in verdicts for table in (means(metric, groups[metric]), gaps(metric, verdicts[metric]))]
    others = [sentence(one, seconds, jobs) for metric in verdicts if metric != first for one in verdicts[metric]]
    decisive = [sentence(one, seconds, jobs) for one in verdicts[first]]
    last = verdicts[first][-1]
    return Result(
        "compare",
        f"{last.metric} of {last.second.name} minus {last.first.name}",
        last.difference,
        last.interval if last.tail == 0.05 else None,
        lines=(*notes, *spread_notes(first, groups[first]), *others, *decisive),
        tables=tuple(tables),
        curves=tuple(plot(metric, groups[metric]) for metric in verdicts),
        about={**about, "outcomes": {metric: [one.outcome for one in verdicts[metric]] for metric in verdicts}},
    )


def means(metric: str, groups: Sequence[Group]) -> Table:
    """Return a row for each group: mean with its 95 % interval, and the parts of the spread."""
    columns = ("recipe", "trainings", "mean", "low", "high", "sd", "CV %", "sd of training", "sd of sampling")
    rows = []
    for group in groups:
        low, high = group.interval() or (None, None)
        cv = None if group.cv is None else 100 * group.cv
        rows.append((group.name, group.size, group.mean, low, high, group.deviation, cv, group.between, group.sampling))
    title = f"{metric}: mean over trainings, its 95 % interval, standard deviation between trainings and its parts"
    return Table(title, columns, tuple(rows))


def gaps(metric: str, verdicts: Sequence[Verdict]) -> Table:
    """Return a row for each comparison."""
    rows = []
    for one in verdicts:
        sds = one.difference / one.deviation if one.deviation else None
        of = 100 * one.difference / abs(one.first.mean) if one.first.mean else None
        pair, low_high = f"{one.second.name} - {one.first.name}", one.interval
        rows.append((pair, one.difference, *low_high, percent(1 - one.tail), of, sds, one.p, one.outcome))
    columns = ("difference", "mean", "low", "high", "interval", "%", "in sd", "p", "verdict")
    return Table(f"{metric}: differences of the means", columns, tuple(rows))


def plot(metric: str, groups: Sequence[Group]) -> Curve:
    """Return the score of each training with the interval of its sampling noise, and the mean with its interval.

    The trainings of a group stand side by side, its mean to their right.
    """
    series, at = [], 0.0
    for group in groups:
        points, intervals = [], []
        for scores, mean in zip(group.scores, group.means, strict=True):
            half = 1.96 * (group.sampling or 0.0) / len(scores) ** 0.5
            points.append((at, mean))
            intervals.append((mean - half, mean + half))
            at += 1
        series.append(Series(f"{group.name}, each training", tuple(points), tuple(intervals)))
        around = group.interval()
        series.append(Series(f"{group.name}, mean", ((at, group.mean),), None if around is None else (around,)))
        at += 2
    return Curve(f"{metric} of each training, and their means", "training", metric, tuple(series))


def spread_notes(metric: str, groups: Sequence[Group]) -> list[str]:
    """Say how large the spread between trainings is, beside that of sampling and beside what is known."""
    notes = []
    for group in groups:
        if group.between is not None and group.sampling:
            notes.append(
                f"{group.name}: another training moves {metric} by {group.between:.3g} (standard deviation), sampling "
                f"it again by {group.sampling:.3g}"
            )
    if any(group.size == 1 or group.assumed_cv is not None for group in groups):
        notes.append(
            f'"The FID Lottery" (arXiv 2606.20536) saw a coefficient of variation of about {100 * LOTTERY:.1f} % '
            "between trainings: differences of that size are not decided by one training each"
        )
    return notes
