"""Verdicts on known distributions: closed forms, error rates, intervals that hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.verdict import fixed_power, fixed_size, repeated
from elucid.dnnlib.errors import UserError
from elucid.evaluation.compare.evidence import Statistic, log_evidence, log_evidence_of_any, welch
from elucid.evaluation.compare.groups import Group
from elucid.evaluation.compare.power import more_trainings, settles, trainings_to_settle
from elucid.evaluation.compare.sentence import sentence
from elucid.evaluation.compare.sequential import design
from elucid.evaluation.compare.typed import share, typed_groups
from elucid.evaluation.compare.verdict import Rules, judged, judged_by_holm, judged_in_turn

LOOKS = tuple((size, size) for size in range(3, 25))


def group(name: str, *values: float) -> Group:
    return Group(name, tuple((value,) for value in values))


def test_welch_is_that_of_scipy():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=4), 3 * rng.normal(size=7)
    found = welch([one.mean(), other.mean()], [one.var(ddof=1), other.var(ddof=1)], [4, 7])
    theirs = stats.ttest_ind(other, one, equal_var=False)
    assert found.t == pytest.approx(theirs.statistic) and found.df == pytest.approx(theirs.df)
    verdict = judged("fid", group("a", *one), group("b", *other), Rules(alpha=0.05))
    assert verdict.p == pytest.approx(theirs.pvalue)
    assert verdict.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))


@pytest.mark.parametrize(("t", "df", "weight"), [(0.0, 4, 1.5), (1.3, 4, 1.5), (3.7, 9.5, 2.5), (-6.0, 18, 5.0)])
def test_evidence_is_the_ratio_of_densities(t, df, weight):
    found, gap = Statistic(t, 1.0, df, weight), 2.0
    shift = gap * weight**0.5
    densities = stats.nct.pdf(t, df, shift) + stats.nct.pdf(-t, df, shift)
    expected = math.log(densities / (2 * stats.t.pdf(t, df)))
    assert log_evidence(found, gap) == pytest.approx(expected, rel=1e-6)
    known = Statistic(t, 1.0, math.inf, weight)
    normal = math.log((stats.norm.pdf(t - shift) + stats.norm.pdf(t + shift)) / (2 * stats.norm.pdf(t)))
    assert (
        log_evidence(known, gap)
        == pytest.approx(normal)
        == pytest.approx(log_evidence(Statistic(t, 1.0, 1e5, weight), gap), rel=1e-3)
    )


def test_evidence_grows_with_the_statistic_and_a_huge_gap_is_seen_at_the_first_look():
    found = welch([0.0, np.linspace(0, 400, 50)], [1.0, 0.01], [3, 3])
    assert (np.diff(log_evidence(found, 2.0)) > 0).all()
    made = design(LOOKS)
    assert log_evidence(found, 2.0)[-1] < made.upper < log_evidence_of_any(found, 2.0)[-1]


def test_parts_of_the_spread():
    """Scores made of exact effects: the analysis of variance gives them back."""
    rng = np.random.default_rng(1)
    effects = rng.normal(50, 2, 400)
    made = Group("a", tuple(tuple(effect + 3 * rng.normal(size=5)) for effect in effects))
    assert made.sampling == pytest.approx(3, rel=0.05) and made.between == pytest.approx(2, rel=0.15)
    assert made.deviation == pytest.approx((2**2 + 3**2 / 5) ** 0.5, rel=0.1)
    assert made.cv == pytest.approx(made.deviation / made.mean)
    low, high = made.interval()
    assert low < 50 < high and high - low == pytest.approx(2 * 1.966 * made.deviation / 20, rel=1e-3)


def test_limits_of_the_sequential_test_hold_its_errors_and_save_trainings():
    made = design(LOOKS)
    equal, apart = repeated(200, 0.0, made), repeated(200, 2.0, made)
    assert equal.different <= 0.05 and apart.different >= 0.8
    assert min(equal.covered, apart.covered) > 0.95
    assert made.power > 0.95 and fixed_power(11, 2.0, 0.025) >= made.power
    whole, _ = fixed_size(made.power, 2.0, made.alpha)
    assert (equal.trainings + apart.trainings) / 2 <= 0.6 * whole


@pytest.mark.parametrize("noise", ["log-normal", "normal, deviations 1 : 3"])
def test_errors_with_other_noise(noise):
    made = design(LOOKS)
    assert repeated(200, 0.0, made, noise, seed=1).different <= 0.05
    assert repeated(200, 2.0, made, noise, seed=1).different >= 0.8


def test_errors_of_a_fixed_size():
    """The share of false alarms is alpha, and gaps are found as the noncentral distribution says."""
    rules = Rules(alpha=0.05, beta=0.2)
    equal, apart = repeated(800, 0.0, 6, rules=rules), repeated(800, 2.0, 6, rules=rules)
    assert equal.different == pytest.approx(0.05, abs=0.02) and 0.93 < equal.covered < 0.97
    assert apart.different == pytest.approx(fixed_power(6, 2.0, 0.05), abs=0.05)
    assert apart.not_different < 0.2


def test_looks_with_finished_runs_of_one_recipe():
    """The sizes may differ; the limits belong to them."""
    made = design(tuple((5, size) for size in range(3, 9)))
    assert made.alpha == 0.025 and 0.3 < made.power < 0.9
    first, second = group("a", *range(5)), group("b", 100.0, 101.0, 102.0)
    verdict = judged_in_turn("fid", first, second, Rules(), made)
    assert verdict.outcome == "different" and (verdict.first.size, verdict.second.size) == (5, 3)


def test_it_stops_at_the_first_look_that_settles_and_asks_for_more_before():
    made = design(LOOKS)
    rng = np.random.default_rng(3)
    first, second = (group(name, *(10 + rng.normal(size=24))) for name in "ab")
    verdict = judged_in_turn("fid", first, second, Rules(), made)
    assert verdict.outcome == "not different"
    size = verdict.first.size
    assert judged_in_turn("fid", first.first(size - 1), second.first(size - 1), Rules(), made) is None
    again = judged_in_turn("fid", first.first(size), second.first(size), Rules(), made)
    assert again == verdict


def test_holm_holds_the_errors_of_several_comparisons():
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(200):
        groups = [group(name, *rng.normal(size=4)) for name in "abcd"]
        alarms.append(any(one.outcome == "different" for one in judged_by_holm("fid", groups, Rules(alpha=0.05))))
    assert np.mean(alarms) < 0.08
    near, far, same = group("b", 1.0, 1.1, 1.2, 1.05), group("c", 5.0, 5.1, 5.2, 5.1), group("d", 0.0, 0.1, 0.2, 0.1)
    verdicts = judged_by_holm("fid", [group("a", 0.05, 0.1, 0.2, 0.1), near, far, same], Rules(alpha=0.03))
    assert [one.outcome for one in verdicts] == ["different", "different", "not different"]
    assert verdicts[1].tail == pytest.approx(0.01) and verdicts[0].tail == pytest.approx(0.015)


def test_more_trainings_settle_it():
    """With the number that it says, four of five comparisons are settled; with one fewer, not."""
    rules = Rules()
    for gap in (0.0, 2.0, 4.0):
        wanted = trainings_to_settle(gap, rules)
        outcome = repeated(400, gap, wanted, rules=rules)
        assert outcome.different + outcome.not_different > 0.75
        assert settles([wanted], gap, rules)[0] >= 0.8 > settles([wanted - 1], gap, rules)[0]
    verdict = judged("fid", group("A", 1.77, 1.79, 1.80), group("B", 1.82, 1.85, 1.81), rules)
    assert verdict.outcome == "undecided"
    assert more_trainings(verdict) == trainings_to_settle(verdict.difference / verdict.deviation, rules) - 3


def test_single_values_with_an_assumed_spread():
    """Is 1.77 against 1.82 real? With 1.3 % between trainings the difference is 1.5 standard errors."""
    groups = typed_groups(["A: 1.77", "B: 1.82"], share("1.3%"))
    (verdict,) = judged_by_holm("fid", groups, Rules())
    error = 0.013 * math.hypot(1.77, 1.82)
    assert verdict.p == pytest.approx(2 * stats.norm.sf(0.05 / error)) and verdict.outcome == "undecided"
    said = sentence(verdict)
    assert said.startswith("undecided") and f"about {more_trainings(verdict)} more seeds each" in said
    far = judged("fid", *typed_groups(["A: 1.77", "B: 2.1"], 0.013), Rules())
    assert far.outcome == "different" and sentence(far).startswith("different: A has the lower fid, by 0.33 (16 %)")


def test_sentences():
    rng = np.random.default_rng(0)
    same = [group(name, *(10 + 0.1 * rng.normal(size=20))) for name in "ab"]
    verdict = judged("kid", *same, Rules())
    said = sentence(verdict)
    assert said.startswith("not different") and f"{verdict.largest:.4g} " in said and "20 trainings each" in said
    higher = judged("recall", group("a", 0.5, 0.51, 0.52), group("b", 0.9, 0.91, 0.92), Rules(), lower_is_better=False)
    assert sentence(higher).startswith("different: b has the higher recall, by 0.4")
    few = judged("fid", group("a", 1.0, 2.0), group("b", 2.0, 3.1), Rules())
    assert "would settle it, which cost about 1 hours here" in sentence(few, seconds=3600 / more_trainings(few))
    wide = judged("fid", group("a", 1.0, 2.0, 1.5), group("b", 1.4, 2.0, 1.4), Rules(beta=1e-9, margin=5.0))
    assert wide.outcome == "not different" and "within the margin of 5" in sentence(wide)


@pytest.mark.parametrize(
    ("texts", "cv", "reason"),
    [
        (["A: 1.77", "B: 1.82"], None, "A has one number"),
        (["A: 1.77,1.8"], None, "at least two"),
        (["A: 1,2", "A: 3,4"], None, "two recipes are named A"),
        (["A: 1,x", "B: 3,4"], None, "not of the form"),
        (["1,2", "B: 3,4"], None, "not of the form"),
        (["A: nan,2", "B: 3,4"], None, "not finite"),
        (["A: 2,2,2", "B: 3,4"], None, "given more than once"),
    ],
)
def test_typed_scores_that_say_nothing(texts, cv, reason):
    with pytest.raises(UserError, match=reason):
        typed_groups(texts, cv)


@pytest.mark.parametrize("text", ["", "0", "x%", "130%", "-1%"])
def test_shares(text):
    assert share("1.3%") == pytest.approx(0.013) == share("0.013")
    with pytest.raises(UserError, match="is not a share"):
        share(text)
