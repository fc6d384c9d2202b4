"""Measures of memorisation where the truth is known: fresh draws, copies, underfitting, and intervals that hold it."""

import numpy as np
import pytest
import torch
from scipy import stats

from elucid.evaluation.memorisation import nearest as nearest_module
from elucid.evaluation.memorisation import planted
from elucid.evaluation.memorisation.authpct import authpct
from elucid.evaluation.memorisation.ct import Partition, data_copying, mann_whitney
from elucid.evaluation.memorisation.measures import Landscape, Measures, control
from elucid.evaluation.memorisation.nearest import nearest
from elucid.evaluation.memorisation.shares import probability_nearer, share_nearer


def draw(count, seed, dim=3, scale=1.0):
    """Two clusters of unequal width."""
    random = np.random.default_rng(seed)
    wide = random.random(count) < 0.5
    points = random.standard_normal((count, dim)) * np.where(wide, 1.0, 0.4)[:, None] * scale
    points[:, 0] += np.where(wide, 4.0, -4.0)
    return torch.from_numpy(points)


@pytest.mark.parametrize("chunk", [1 << 23, 50])
def test_the_nearest_are_those_of_all_distances(chunk, monkeypatch):
    monkeypatch.setattr(nearest_module, "CHUNK", chunk)
    points, others = draw(30, 0), draw(41, 1) + 1000  # far from the origin
    points = torch.cat([points + 1000, others[7:8]])
    table = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")
    found = nearest(points, others, 3)
    torch.testing.assert_close(found.distances, table.sort(dim=1).values[:, :3])
    assert torch.equal(found.indices, table.argsort(dim=1)[:, :3])
    assert found.distances[-1, 0] == 0 and found.indices[-1, 0] == 7
    apart = nearest(others[[7, 3]], others, 1, exclude=torch.tensor([7, 3]))
    own = torch.cdist(others, others, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(float("inf"))
    torch.testing.assert_close(apart.distances[:, 0], own.min(dim=1).values[[7, 3]])


def test_the_share_is_that_of_further_held_out_images_if_nothing_is_copied():
    """Expected share, its range, and an exact test: chances are uniform, or above for counts."""
    random, results = np.random.default_rng(0), []
    for _ in range(400):
        results.append(share_nearer(random.exponential(size=300), random.exponential(size=150), 0.05))
    values = np.array([one.value for one in results])
    assert results[0].expected == 8 / 151
    assert values.mean() == pytest.approx(8 / 151, abs=4 * values.std() / 20)
    within = np.mean([one.normal[0] <= one.value <= one.normal[1] for one in results])
    assert 0.93 <= within <= 0.99
    for level in (0.05, 0.2):
        assert np.mean([one.chance <= level for one in results]) <= level + 3 * (level / 400) ** 0.5
    assert share_nearer(np.ones(50), np.ones(30), 0.01) is None, "no 1 % of 30 images"


@pytest.mark.parametrize("scale", [1.0, 0.3, 3.0])
def test_the_interval_of_the_share_holds_the_truth(scale):
    """P(d < q), q the 5 % quantile of Exp(1), for samples of another scale; 90 to 99 % of 200 intervals."""
    random = np.random.default_rng(1)
    truth = stats.expon(scale=scale).cdf(stats.expon.ppf(0.05))
    held = 0
    for _ in range(200):
        one = share_nearer(random.exponential(scale, 400), random.exponential(1, 400), 0.05)
        held += one.interval[0] <= truth <= one.interval[1]
    assert 180 <= held <= 198


def test_the_probability_to_be_nearer():
    random = np.random.default_rng(2)
    near, far = random.integers(0, 9, 30).astype(float), random.integers(2, 12, 20).astype(float)
    pairs = (near[:, None] < far).mean() + (near[:, None] == far).mean() / 2
    assert probability_nearer(near, far)[0] == pytest.approx(pairs, abs=1e-12)
    held = 0
    for _ in range(200):  # P(X < Y) = 3/4 of X ~ Exp(1/3), Y ~ Exp(1)
        low, high = probability_nearer(random.exponential(1 / 3, 60), random.exponential(1, 90))[1]
        held += low <= 0.75 <= high
    assert 180 <= held <= 198
    value, (low, high) = probability_nearer(np.zeros(40), np.ones(60))
    assert value == 1 and 0.85 < low < 1 and high == 1


def test_the_mann_whitney_statistic():
    random = np.random.default_rng(3)
    first, second = random.integers(0, 20, 25), random.integers(3, 25, 40)
    u = stats.mannwhitneyu(first, second).statistic
    assert mann_whitney(first, second) == pytest.approx((u - 500) / (1000 * 66 / 12) ** 0.5)


def test_c_t_of_fresh_draws_copies_and_underfitting():
    """About 0 with the stated deviation over repeats; far below for copies, far above for samples that are too wide."""
    scores = []
    for seed in range(40):
        partition = Partition(draw(300, [seed, 0]), 4, seed)
        held_out, fresh = (partition(draw(200, [seed, which])) for which in (1, 2))
        found = data_copying(fresh, held_out, 4)
        assert found.cells >= 3
        scores.append(found.value / found.deviation)
    assert abs(np.mean(scores)) < 3 / 40**0.5 and 0.7 < np.std(scores) < 1.3
    copies = draw(300, [0, 0]) + 0.01 * draw(300, 9)
    partition = Partition(draw(300, [0, 0]), 4)
    held_out = partition(draw(200, 1))
    for samples, low, high in ((copies, -99, -5), (draw(300, 2, scale=1.7), 1.5, 99)):
        found = data_copying(partition(samples), held_out, 4)
        assert low < found.value < high


def test_c_t_sees_copies_in_one_region_that_too_wide_samples_elsewhere_hide():
    """The reason for the cells: z is far below 0 in one and above in the other."""
    train = draw(400, 0)
    partition = Partition(train, 2)
    fresh = draw(400, 1, scale=1.5)
    samples = torch.cat([train[train[:, 0] < 0] + 0.01, fresh[fresh[:, 0] > 0]])
    z = data_copying(partition(samples), partition(draw(400, 2)), 2).z
    assert z.min() < -8 and z.max() > 1.5
    few = partition(samples[:20])  # a cell counts with more than 20 samples
    assert np.isnan(data_copying(few, partition(draw(400, 2)), 2).value)


def test_authpct_by_hand_and_of_copies():
    train = torch.tensor([[0.0], [1.0], [3.0]])
    land = Landscape(train, 1)
    samples = land.around(torch.tensor([[0.4], [-2.0], [5.0], [5.5]]))
    assert samples.distances.tolist() == pytest.approx([0.4, 2, 2, 2.5]) and samples.radii.tolist() == [1, 1, 2, 2]
    assert authpct(samples.distances, samples.radii) == 50, "within or at the radius is not authentic"
    copies = land.around(train)
    assert authpct(copies.distances, copies.radii) == 0 and (copies.ratios == 0).all()
    twins = Landscape(torch.tensor([[0.0], [0.0], [1.0]]), 1).around(torch.tensor([[0.0], [0.1]]))
    assert twins.ratios.tolist() == [0, np.inf]


def test_planted_copies_move_every_measure_and_the_more_the_further():
    train = draw(500, 0)
    land, places = Landscape(train, 3), planted.choose(400, 500, seed=0)
    samples, held_out = land.around(draw(400, 1)), land.around(draw(400, 2))
    copies = {"exact": land.around(train[places[1]])}
    found = list(control(samples, held_out, copies, places[0], 3))
    assert [(kind, count) for kind, count, _ in found] == [("exact", 4), ("exact", 20), ("exact", 80)]
    measures = [Measures.of(samples, held_out, 3), *(one for _, _, one in found)]
    assert np.all(np.diff([one.shares[0].value for one in measures]) > 0)
    assert np.all(np.diff([one.authentic for one in measures]) < 0)
    assert measures[3].copying.value < measures[0].copying.value - 2
    assert measures[3].shares[0].chance < 1e-6 and measures[0].shares[0].chance > 0.01
    mixed = samples.planted(places[0], copies["exact"])
    assert len(mixed.distances) == 400 and (mixed.distances == 0).sum() == 80


def test_altered_copies():
    image = np.random.default_rng(0).integers(20, 200, (1, 6, 5)).astype(np.uint8)
    assert np.array_equal(planted.altered(image, "mirror", 0, 3), image[:, :, ::-1])
    shifted = {planted.altered(image, "shift", 0, index).tobytes() for index in range(40)}
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    moves = {(0, 1), (2, 1), (1, 0), (1, 2)}
    assert shifted == {np.ascontiguousarray(padded[:, y : y + 6, x : x + 5]).tobytes() for y, x in moves}
    noisy = np.stack([planted.altered(image, "noise", 0, index).astype(float) - image for index in range(50)])
    assert noisy.std() == pytest.approx(planted.NOISE, rel=0.1) and abs(noisy.mean()) < 0.5
    assert np.array_equal(planted.altered(image, "noise", 0, 3), planted.altered(image, "noise", 0, 3))
    places, copied = planted.choose(100, 7, 1)
    assert len(set(places.tolist())) == 20 and np.bincount(copied).max() == 3
