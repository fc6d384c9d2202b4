"""The verdict as one plain sentence."""

from elucid.evaluation.compare.power import more_trainings
from elucid.evaluation.compare.verdict import DIFFERENT, NOT_DIFFERENT, Verdict


def sentence(verdict: Verdict, seconds: float | None = None, jobs: int = 1) -> str:
    """Return the outcome with the difference and its interval, and if it is open, what would settle it.

    `seconds` is what one more training of each recipe costs, of which `jobs` run at once.
    """
    first, second = verdict.first, verdict.second
    within = f"{percent(1 - verdict.tail)} interval {verdict.interval[0]:.4g} to {verdict.interval[1]:.4g}"
    same = first.size == second.size
    after = f"after {trainings(first.size)} each" if same else f"after {first.size} and {second.size} trainings"
    if verdict.outcome == DIFFERENT:
        other = first if verdict.better is second else second
        less = "lower" if verdict.lower_is_better else "higher"
        size = f"{abs(verdict.difference):.4g}{relative(abs(verdict.difference), other.mean)}"
        return f"different: {verdict.better.name} has the {less} {verdict.metric}, by {size}; {within}, {after}"
    pair = f"{verdict.metric} of {second.name} minus that of {first.name} is {verdict.difference:.4g}"
    if verdict.outcome == NOT_DIFFERENT:
        allowed = f"{verdict.largest:.4g}{relative(verdict.largest, first.mean)}"
        return f"not different: {pair}, and {allowed} at most; {within}, {after}{_why(verdict)}"
    more = more_trainings(verdict)
    if more is None:
        return f"undecided: {pair}; {within}, {after}"
    plural = "s" if more > 1 else ""
    cost = "" if seconds is None else f", which cost about {duration(more * seconds / jobs)} here"
    return f"undecided: {pair}; {within}, {after}; about {more} more seed{plural} each would settle it{cost}"


def _why(verdict: Verdict) -> str:
    rules = verdict.rules
    if rules.margin is not None and verdict.largest <= rules.margin:
        return f"; within the margin of {rules.margin:.4g}"
    gap = rules.gap * verdict.deviation
    return (
        f"; the data speak {1 / max(verdict.evidence, 1e-6):.2g} to 1 against a gap of {rules.gap:g} standard "
        f"deviations between trainings ({gap:.2g})"
    )


def relative(value: float, to: float) -> str:
    return f" ({100 * value / abs(to):.2g} %)" if to else ""


def percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def trainings(number: int) -> str:
    return f"{number} training{'s' if number != 1 else ''}"


def duration(seconds: float) -> str:
    """Return seconds in the largest unit that fits: `2.5 hours`, `3 minutes`."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
