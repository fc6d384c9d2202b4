"""Ensembles: scores against closed forms, and calibrated ensembles that are found calibrated, whatever depends."""

import math

import numpy as np
import pytest
from scipy.stats import kstest, norm

from elucid.dnnlib.errors import UserError
from elucid.evaluation.bootstrap import bootstrap
from elucid.evaluation.ensemble.coverage import intervals, needed, weights
from elucid.evaluation.ensemble.flatness import MOST_BINS, Bins, Histogram
from elucid.evaluation.ensemble.measure import VALUES, Ensembles
from elucid.evaluation.ensemble.scores import crps, energy_score, ranks
from elucid.evaluation.ensemble.summary import summarise


def gaussian_crps(mean: float, deviation: float, truth: float) -> float:
    """The CRPS of a Gaussian (Gneiting et al. 2005, eq. 5)."""
    z = (truth - mean) / deviation
    return deviation * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))


def smooth(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Fields of variance 1 whose pixels depend on each other: one number for each field, and noise."""
    common = random.normal(size=(*shape[:-2], 1, 1))
    return math.sqrt(0.7) * common + math.sqrt(0.3) * random.normal(size=shape)


def calibrated(seed: int, num: int, members: int, shape=(1, 4, 4), deviation: float = 1.0, offset: float = 0.0):
    """Ensembles and truths of the same distribution around a mean that differs between conditions."""
    random = np.random.default_rng(seed)
    centre = offset + 3 * smooth(random, num, 1, *shape)
    ensemble = centre + deviation * smooth(random, num, members, *shape)
    return ensemble, centre[:, 0] + smooth(random, num, *shape)


def measured(ensemble: np.ndarray, truth: np.ndarray) -> Ensembles:
    found = Ensembles(ensemble.shape[1], ensemble.shape[2])
    for members, one in zip(ensemble, truth, strict=True):
        found.add(members, one)
    return found


@pytest.mark.parametrize("truth", [-2.0, 0.3, 1.7])
def test_a_large_ensemble_has_the_crps_of_its_gaussian(truth):
    quantiles = norm.ppf((np.arange(20000) + 0.5) / 20000) * 1.5 + 0.5
    plain, fair = crps((quantiles - truth)[:, None])
    expected = gaussian_crps(0.5, 1.5, truth)
    assert plain[0] == pytest.approx(expected, rel=1e-3) and fair[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("members", [2, 3, 4, 5])
def test_the_fair_crps_is_unbiased_and_the_plain_one_is_not(members):
    draws = np.random.default_rng(members).normal(size=(members, 200_000)) * 1.5 + 0.5
    plain, fair = crps(draws - 0.8)
    expected, error = gaussian_crps(0.5, 1.5, 0.8), fair.std() / math.sqrt(fair.size)
    assert abs(fair.mean() - expected) < 4 * error
    # The bias of the step distribution: half the mean difference of two members, 2 s / sqrt(pi), over K.
    assert plain.mean() - expected == pytest.approx(1.5 / math.sqrt(math.pi) / members, rel=0.05)


def test_crps_is_the_sum_over_pairs_and_keeps_its_digits_at_large_offsets():
    random = np.random.default_rng(0)
    members, truth = random.normal(size=(7, 5)), random.normal(size=5)
    pairs = np.abs(members[:, None] - members).sum((0, 1))
    distance = np.abs(members - truth).mean(0)
    plain, fair = crps(members - truth)
    np.testing.assert_allclose(plain, distance - pairs / (2 * 49), rtol=1e-12)
    np.testing.assert_allclose(fair, distance - pairs / (2 * 42), rtol=1e-12)
    ensemble, one = calibrated(0, 6, 5, offset=101325.0)
    near, _ = calibrated(0, 6, 5)
    far = measured(ensemble.astype(np.float64), one)
    np.testing.assert_allclose(far.values, measured(near, one - 101325.0).values, atol=1e-9)
    np.testing.assert_allclose(far.deviation, (one - 101325.0).std(), rtol=1e-9)


def test_crps_of_recorded_numbers():
    """Numbers that scoringrules 0.10 computes (`crps_ensemble` with the estimators nrg and fair)."""
    members, truth = np.array([0.2, 1.4, -0.7, 2.5, 0.9]), 1.1
    plain, fair = crps((members - truth)[:, None])
    assert plain[0] == pytest.approx(RECORDED["nrg"], rel=1e-9)
    assert fair[0] == pytest.approx(RECORDED["fair"], rel=1e-9)


RECORDED = {"nrg": 0.312, "fair": 0.16, "energy": 0.2930046941705733}


def test_energy_score_is_the_crps_for_one_position_and_that_of_a_library_for_two():
    random = np.random.default_rng(1)
    deviations = random.normal(size=(6, 1))
    _, fair = crps(deviations)
    assert energy_score(deviations @ deviations.T) == pytest.approx(fair[0], rel=1e-9)
    members = np.array([[0.2, 1.0], [1.4, -0.3], [-0.7, 0.4], [2.5, 2.0]]) - np.array([1.1, 0.5])
    assert energy_score(members @ members.T / 2) == pytest.approx(RECORDED["energy"] / math.sqrt(2), rel=1e-9)


def test_ranks_count_members_below_and_break_ties_evenly_and_again_the_same():
    members = np.array([[1.0], [2.0], [3.0]])
    assert [int(ranks(members - truth, np.random.default_rng(0))[0]) for truth in (0.5, 1.5, 9.0)] == [0, 1, 3]
    ties = np.repeat(np.array([[0.0], [0.0], [-1.0], [1.0]]), 30000, axis=1)
    counts = np.bincount(ranks(ties, np.random.default_rng(1)), minlength=5)
    assert counts[0] == counts[4] == 0 and np.abs(counts[1:4] - 10000).max() < 400
    ensemble, truth = (one.round() for one in calibrated(3, 5, 3))
    first, again = (measured(ensemble, truth).histograms[0].mean for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("rounded", [False, True], ids=["floats", "rounded"])
@pytest.mark.parametrize("members", [2, 5, 19])
def test_calibrated_ensembles_have_ratio_1_nominal_coverage_and_flat_ranks(members, rounded):
    ensemble, truth = calibrated(members, 800, members)
    if rounded:
        ensemble, truth = np.round(2 * ensemble), np.round(2 * truth)
    found = measured(ensemble, truth)
    errors, _, coverage, flatness = summarise(found, ["x"]).tables
    ratio, low, high = errors.rows[0][6:]
    assert low < 1 < high and high - low < 0.2 and ratio == pytest.approx(1, abs=0.07)
    for level, *_, at in ((level, 1 + 3 * place) for place, level in enumerate(found.levels)):
        value, low, high = coverage.rows[0][at : at + 3]
        assert low - 0.8 < 100 * level < high + 0.8 and value == pytest.approx(100 * level, abs=4)
    assert flatness.rows[0][3] > 0.005


def test_narrow_ensembles_are_found_out():
    ensemble, truth = calibrated(0, 200, 19, deviation=0.6)
    errors, _, coverage, flatness = summarise(measured(ensemble, truth), ["x"]).tables
    assert errors.rows[0][8] < 0.8 and coverage.rows[0][9] < 85  # the upper limits of ratio and of the 90 % interval
    assert flatness.rows[0][3] < 1e-4 and min(flatness.rows[0][4:]) > 150


def test_spread_and_error_against_numpy():
    ensemble, truth = calibrated(1, 6, 4, (2, 3, 5))
    found, values = measured(ensemble, truth), {}
    for place, name in enumerate(VALUES):
        values[name] = found.values[..., place]
    np.testing.assert_allclose(values["squared_error"], ((ensemble.mean(1) - truth) ** 2).mean((-2, -1)))
    np.testing.assert_allclose(values["variance"], ensemble.var(1, ddof=1).mean((-2, -1)))
    np.testing.assert_allclose(values["bias"], (ensemble.mean(1) - truth).mean((-2, -1)), atol=1e-12)
    np.testing.assert_allclose(found.deviation, truth.std((0, 2, 3)))
    rows = summarise(found, ["a", "b"]).tables[0].rows
    assert rows[1][2] == pytest.approx(math.sqrt(((ensemble.mean(1) - truth) ** 2)[:, 1].mean()))
    spread = math.sqrt(5 / 4 * ensemble.var(1, ddof=1)[:, 1].mean())
    assert rows[1][5] == pytest.approx(spread) and rows[1][6] == pytest.approx(spread / rows[1][2])


def test_parts_of_a_field_do_not_matter(monkeypatch):
    ensemble, truth = calibrated(2, 3, 4)
    whole = measured(ensemble, truth).values
    monkeypatch.setattr("elucid.evaluation.ensemble.measure._AT_ONCE", 12)
    np.testing.assert_allclose(measured(ensemble, truth).values, whole, rtol=1e-12)


def test_intervals_that_too_few_members_cannot_tell_are_not_told():
    assert weights(0.95, 38) is None and weights(0.95, 39) is not None and needed(0.95) == 39 and needed(0.5) == 3
    for members in (2, 8, 19, 50):
        for level, one in intervals(members).items():
            assert one.mean() == pytest.approx(level) and one.min() >= 0 and one.max() <= 1
            assert np.allclose(one, one[::-1]) and max(one[0], one[-1]) < 1e-9
    ensemble, truth = calibrated(0, 30, 8)
    result = summarise(measured(ensemble, truth), ["x"])
    assert "39 needed" in result.text() and "95 %" not in result.tables[2].columns


@pytest.mark.parametrize("size", [1, 30], ids=["one position", "dependent positions"])
def test_the_test_of_flatness_is_right_as_often_as_it_says(size):
    """p-values of calibrated ensembles are uniform although 30 positions have nearly the same rank."""
    random, values = np.random.default_rng(size), []
    bins = Bins(4)
    for _ in range(300):
        histogram = Histogram(5)
        for _ in range(60):
            rank = random.integers(0, 5)
            own = np.where(random.random(size) < 0.8, rank, random.integers(0, 5, size))
            histogram.add(np.bincount(own, minlength=5) / size)
        values.append(histogram.flatness(bins.expected).p)
    assert 0.02 < np.mean(np.array(values) < 0.05) < 0.09
    assert kstest(values, "uniform").pvalue > 1e-3


def test_the_test_of_flatness_knows_that_ranks_vary_together():
    """Low ranks of one condition, high ranks of another: one degree of freedom, not four."""
    random, contrast, tests = np.random.default_rng(7), np.array([1, 1, 0, -1, -1]), []
    for _ in range(300):
        histogram = Histogram(5)
        for common, own in zip(random.normal(size=40), random.normal(size=(40, 5)), strict=True):
            histogram.add(0.2 + 0.05 * common * contrast + 0.002 * (own - own.mean()))
        tests.append(histogram.flatness(np.full(5, 0.2)))
    assert 0.02 < np.mean([test.p < 0.05 for test in tests]) < 0.085
    assert max(test.df for test in tests) < 1.2


def test_one_position_per_condition_is_tested_as_by_pearson():
    counts = np.array([30, 18, 22, 14, 16])
    histogram = Histogram(5)
    for rank, count in enumerate(counts):
        for _ in range(count):
            histogram.add(np.eye(5)[rank])
    test = histogram.flatness(np.full(5, 0.2))
    pearson = ((counts - 20) ** 2 / 20).sum()
    assert test.chi2 == pytest.approx(pearson, rel=0.05) and test.df == pytest.approx(4, rel=0.05)


def test_ranks_of_many_members_share_bins():
    bins = Bins(100)
    assert len(bins) == MOST_BINS and bins.expected.sum() == pytest.approx(1)
    frequencies = np.random.default_rng(0).dirichlet(np.ones(101))
    assert bins.of(frequencies).sum() == pytest.approx(1)
    assert bins.of(frequencies)[0] == pytest.approx(frequencies[:5].sum())
    assert Bins(4).expected.tolist() == [0.2] * 5 and Bins(4).middles.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_intervals_cover_the_truth_as_often_as_they_say_though_pixels_depend():
    covered = {"rmse": 0, "crps": 0, "half": 0}
    times = 80
    expected = {"rmse": math.sqrt(1 + 1 / 5), "crps": gaussian_crps_of_calibrated(), "half": 50.0}
    for seed in range(times):
        errors, scores, coverage, _ = summarise(measured(*calibrated(seed, 40, 5, (1, 3, 3))), ["x"]).tables
        found = {"rmse": errors.rows[0][3:5], "crps": scores.rows[0][2:4], "half": coverage.rows[0][2:4]}
        for name, (low, high) in found.items():
            covered[name] += low <= expected[name] <= high
    assert all(0.86 <= count / times < 1 for count in covered.values()), covered


def gaussian_crps_of_calibrated() -> float:
    """The mean CRPS of N(0, 1) under itself: (1 - 1/2) 2 / sqrt(pi)."""
    return 1 / math.sqrt(math.pi)


def test_bootstrap_of_a_mean_is_that_of_its_normal_and_skewed_ratios_are_not_symmetric():
    rows = np.random.default_rng(0).normal(size=(400, 1))
    value, low, high = (one[0] for one in bootstrap(rows, lambda means: means))
    half = 1.96 * rows.std() / 20
    assert (
        value == rows.mean()
        and low == pytest.approx(value - half, abs=0.01)
        and high - low == pytest.approx(2 * half, rel=0.06)
    )
    alone = bootstrap(rows[:1], lambda means: means)
    assert np.isnan(alone.low).all() and alone.value == rows[0]
    same = bootstrap(np.ones((5, 1)), lambda means: means)
    assert same.low == same.high == 1


def test_a_truth_that_never_varies_is_refused_or_left_out():
    ensemble, truth = calibrated(0, 4, 3, (2, 2, 2))
    truth[:, 0] = 5
    result = summarise(measured(ensemble, truth), ["mask", "x"])
    assert "does not vary in mask" in result.text() and math.isfinite(result.value)
    with pytest.raises(UserError, match="truth"):
        summarise(measured(ensemble[:, :, :1], truth[:, :1]), ["mask"])
