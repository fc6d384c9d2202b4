"""The verdict on two groups of trainings: different, not different, or undecided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from elucid.dnnlib.errors import UserError
from elucid.evaluation.compare.evidence import Statistic, log_evidence, p_value, welch
from elucid.evaluation.compare.groups import Group
from elucid.evaluation.compare.sequential import Design

DIFFERENT, NOT_DIFFERENT, UNDECIDED = "different", "not different", "undecided"


@dataclass(frozen=True)
class Rules:
    """How a verdict is reached.

    `alpha`: the probability of "different" for equal recipes. `beta`: the most evidence for a gap of `gap` standard
    deviations between trainings, as a likelihood ratio, that counts as "not different"; if the gap is there, this is
    said with a lower probability than `beta`. With a `margin`, in units of the score, "not different" also means that
    the interval of the difference lies within it.
    """

    alpha: float = 0.025
    beta: float = 0.3
    gap: float = 2.0
    margin: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The comparison of the `second` group with the `first` by one metric.

    `interval` of the difference of the means (second minus first) has the two-sided tail probability `tail`, and is
    valid also if the trainings were stopped early. `evidence` is the likelihood ratio for the gap of the rules against
    none.
    """

    metric: str
    first: Group
    second: Group
    outcome: str
    difference: float
    interval: tuple[float, float]
    tail: float
    p: float
    evidence: float
    rules: Rules
    lower_is_better: bool

    @property
    def better(self) -> Group:
        """The group with the better mean."""
        return self.second if (self.difference < 0) == self.lower_is_better else self.first

    @property
    def largest(self) -> float:
        """The largest difference that the interval allows."""
        return max(map(abs, self.interval))

    @property
    def deviation(self) -> float:
        """Pooled standard deviation between trainings."""
        return pooled(self.first, self.second)


def statistic(first: Group, second: Group) -> Statistic:
    """Return Welch's statistic. Raises UserError if a group has one training and no assumed deviation."""
    for group in (first, second):
        if group.deviation is None:
            raise UserError(
                f"{group.name} has one training, so its spread between trainings is unknown; give at least two, or "
                "assume a coefficient of variation: `cv`=1.3%"
            )
    variances = [(group.deviation or 0.0) ** 2 for group in (first, second)]
    if first.assumed_cv is not None and second.assumed_cv is not None:
        error = math.sqrt(variances[0] / first.size + variances[1] / second.size)
        weight = 1 / (1 / first.size + 1 / second.size)
        return Statistic(second.mean - first.mean, error, math.inf, weight)
    return welch([first.mean, second.mean], variances, [first.size, second.size])


def pooled(first: Group, second: Group) -> float:
    """Return the root mean square of the two standard deviations."""
    return math.sqrt(((first.deviation or 0.0) ** 2 + (second.deviation or 0.0) ** 2) / 2)


def judged(
    metric: str, first: Group, second: Group, rules: Rules, lower_is_better: bool = True, tail: float | None = None
) -> Verdict:
    """Return the verdict of Welch's test with all trainings at the level `tail`, by default `rules.alpha`."""
    found, tail = statistic(first, second), tail or rules.alpha
    p, evidence = float(p_value(found)), math.exp(min(log_evidence(found, rules.gap), 700.0))
    interval = interval_of(found, tail)
    within = rules.margin is not None and max(map(abs, interval)) <= rules.margin
    outcome = DIFFERENT if p <= tail else NOT_DIFFERENT if evidence <= rules.beta or within else UNDECIDED
    facts = {"p": p, "evidence": evidence, "rules": rules, "lower_is_better": lower_is_better}
    return Verdict(metric, first, second, outcome, float(found.difference), interval, tail, **facts)


def judged_by_holm(metric: str, groups: Sequence[Group], rules: Rules, lower_is_better: bool = True) -> list[Verdict]:
    """Compare each group with the first one; false alarms over all comparisons stay below `rules.alpha` (Holm 1979).

    The interval of each has the level at which it was tested.
    """
    plain = [judged(metric, groups[0], group, rules, lower_is_better) for group in groups[1:]]
    order, verdicts, tail = np.argsort([one.p for one in plain], kind="stable"), list(plain), 0.0
    rejecting = True
    for rank, index in enumerate(order):
        if rejecting:
            tail = rules.alpha / (len(plain) - rank)
            rejecting = plain[index].p <= tail
        verdicts[index] = judged(metric, groups[0], groups[index + 1], rules, lower_is_better, tail)
        if not rejecting and verdicts[index].outcome == DIFFERENT:
            verdicts[index] = replace(verdicts[index], outcome=UNDECIDED)
    return verdicts


def judged_in_turn(
    metric: str, first: Group, second: Group, rules: Rules, design: Design, lower_is_better: bool = True
) -> Verdict | None:
    """Return the verdict of a sequential test at the look where it stops; None if more trainings are wanted.

    After the last look without an answer the outcome is "undecided".
    """
    for number, (one, other) in enumerate(design.looks):
        if one > first.size or other > second.size:
            return None
        parts = first.first(one), second.first(other)
        found = statistic(*parts)
        outcome = design.answer(found)
        interval = interval_of(found, design.level)
        if outcome is None and rules.margin is not None and max(map(abs, interval)) <= rules.margin:
            outcome = NOT_DIFFERENT
        if outcome or number == len(design.looks) - 1:
            evidence = math.exp(min(log_evidence(found, rules.gap), 700.0))
            facts = {"p": float(p_value(found)), "evidence": evidence, "rules": rules}
            own = (outcome or UNDECIDED, float(found.difference), interval, design.alpha)
            return Verdict(metric, *parts, *own, **facts, lower_is_better=lower_is_better)
    return None


def interval_of(found: Statistic, tail: float) -> tuple[float, float]:
    """Return the interval of the difference with a two-sided tail probability."""
    half = float(stats.t.isf(tail / 2, found.df)) * float(found.error)
    return float(found.difference) - half, float(found.difference) + half
