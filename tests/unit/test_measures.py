"""Metrics of features on distributions whose values are known."""

import math

import numpy as np
import pytest
import torch

from benchmarks.coverage import coverage
from elucid.dnnlib.errors import UserError
from elucid.metrics.frechet import frechet_distance
from elucid.metrics.measures import neighbours
from elucid.metrics.measures.frechet_error import frechet_at_infinity, frechet_error
from elucid.metrics.measures.inception_score import inception_score, shuffled
from elucid.metrics.measures.kernel import kernel_distance
from elucid.metrics.measures.names import metric_names
from elucid.metrics.measures.neighbours import neighbourhoods
from elucid.metrics.measures.sliced import monge_distance
from elucid.metrics.statistics import FeatureStatistics
from elucid.metrics.wilson import interval as wilson


def normal(seed: int, num: int, dim: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dim, generator=generator, dtype=torch.float64) * scale + shift


def statistics(features: torch.Tensor) -> FeatureStatistics:
    result = FeatureStatistics(features.shape[1])
    result.update(features)
    return result


def test_frechet_distance_of_two_gaussians_is_the_closed_form():
    """|m|^2 + D (1 - s)^2 for scales 1 and s."""
    one, other = statistics(normal(0, 200_000, 4)), statistics(normal(1, 200_000, 4, scale=1.5, shift=0.3))
    expected = 4 * 0.3**2 + 4 * 0.5**2
    assert frechet_distance(one.mean, one.covariance, other.mean, other.covariance) == pytest.approx(expected, rel=0.02)


def kernel_truth(dim: int, scale: float) -> float:
    """Squared MMD of N(0, I) and N(0, scale^2 I) for (x.y / D + 1)^3.

    Expand the cube: E (x.y)^2 = D s_x^2 s_y^2 for independent centred x and y, and odd powers vanish.
    """
    return 3 * (1 + scale**4 - 2 * scale**2) * dim / dim**2


def test_kernel_distance_has_no_bias_and_its_interval_holds_the_truth():
    """The mean over 200 repeats of 60 and 80 images lies within its error of the truth, also where it is 0."""
    for scale in (1.0, 1.5):
        truth, values, errors = kernel_truth(3, scale), [], []
        for seed in range(200):
            value, error = kernel_distance(normal(2 * seed, 60, 3), normal(2 * seed + 1, 80, 3, scale))
            values.append(value)
            errors.append(error)
        values, errors = np.array(values), np.array(errors)
        assert abs(values.mean() - truth) < 3 * values.std() / math.sqrt(200)
        held = np.mean(np.abs(values - truth) < 1.96 * errors)
        assert held >= 0.9 and (scale == 1 or held <= 0.99)  # of equal distributions the jackknife is cautious


def test_kernel_distance_of_blocks_is_that_of_all_but_for_chance():
    a, b = normal(0, 600, 3), normal(1, 700, 3, scale=1.5)
    whole, blocks = kernel_distance(a, b), kernel_distance(a, b, block=100)
    assert blocks[0] == pytest.approx(whole[0], abs=2 * blocks[1]) and 0.5 < blocks[1] / whole[1] < 2
    assert whole[0] == pytest.approx(kernel_truth(3, 1.5), abs=4 * whole[1])


def test_kernel_distance_is_the_double_sum():
    a, b = normal(0, 5, 3), normal(1, 4, 3)

    def kernel(x, y):
        return float((x @ y / 3 + 1) ** 3)

    expected = sum(kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j) / 20
    expected += sum(kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j) / 12
    expected -= 2 * sum(kernel(x, y) for x in a for y in b) / 20
    assert kernel_distance(a, b)[0] == pytest.approx(expected, rel=1e-12)
    deleted = [kernel_distance(torch.cat([a[:i], a[i + 1 :]]), b)[0] for i in range(5)]
    others = [kernel_distance(a, torch.cat([b[:i], b[i + 1 :]]))[0] for i in range(4)]
    variance = np.var(deleted) * 4 + np.var(others) * 3
    assert kernel_distance(a, b)[1] == pytest.approx(math.sqrt(variance), rel=1e-9)


def mixture(seed: int, num: int, modes: list[float]) -> torch.Tensor:
    """Equal parts of narrow Gaussians along the diagonal."""
    part = [normal(seed + index, num // len(modes), 4, 0.3, shift) for index, shift in enumerate(modes)]
    return torch.cat(part)


def test_equal_mixtures_are_precise_and_covered():
    around = neighbourhoods(mixture(0, 600, [0, 10, 20]), mixture(10, 600, [0, 10, 20]))
    assert around.precision > 0.85 and around.recall > 0.85 and around.coverage > 0.85
    assert around.density == pytest.approx(1, abs=0.12)


def test_a_missing_mode_costs_recall_and_coverage_but_not_precision():
    around = neighbourhoods(mixture(0, 600, [0, 10, 20]), mixture(10, 600, [0, 10]))
    assert around.precision > 0.85 and around.density > 0.9
    assert around.recall == pytest.approx(2 / 3, abs=0.08) and around.coverage == pytest.approx(2 / 3, abs=0.08)


def test_an_added_mode_costs_precision_and_density_but_not_recall():
    around = neighbourhoods(mixture(0, 600, [0, 10]), mixture(10, 600, [0, 10, 20]))
    assert around.precision == pytest.approx(2 / 3, abs=0.08) and around.density < 0.8
    assert around.recall > 0.8 and around.coverage > 0.8


def test_neighbourhoods_are_those_of_the_definition():
    """Against all distances at once, and the jackknife of the coverage against leaving each image out."""
    real, made = normal(0, 40, 3), normal(1, 30, 3, shift=0.7)
    around = neighbourhoods(real, made)
    cross = torch.cdist(made, real)

    def radii(x, k):
        return torch.cdist(x, x).sort(1).values[:, k]

    assert around.precision == float((cross <= radii(real, 3)).any(1).double().mean())
    assert around.recall == float((cross <= radii(made, 3)[:, None]).any(0).double().mean())
    member = cross <= radii(real, 5)
    assert around.density == pytest.approx(float(member.sum() / (5 * 30)))
    assert around.coverage == float(member.any(0).double().mean())
    left_out = [float(torch.cat([member[:i], member[i + 1 :]]).any(0).double().mean()) for i in range(30)]
    assert around.coverage_error == pytest.approx(math.sqrt(29 * np.var(left_out)), rel=1e-9)


@pytest.mark.parametrize(
    ("real", "made", "reason"),
    [
        (torch.randn(5, 2), torch.randn(20, 2), "5 reference images .* at least 6"),
        (torch.randn(20, 2), torch.randn(4, 2), "4 generated images .* at least 6"),
        (torch.randn(20, 2), torch.ones(20, 2), "all 20 generated images have the same"),
    ],
)
def test_neighbourhoods_that_do_not_exist_are_refused(real, made, reason):
    with pytest.raises(UserError, match=reason):
        neighbourhoods(real, made)


def test_the_interval_of_the_frechet_distance_holds_the_truth():
    """In 200 repeats, 1000 images of 3 dimensions against a Gaussian that is known."""
    mean, covariance = torch.zeros(3), torch.eye(3)
    truth, held = 3 * 0.5**2 + 3 * 0.4**2, []
    for seed in range(200):
        features = normal(seed, 1000, 3, scale=1.4, shift=0.5)
        own = statistics(features)
        value = frechet_distance(own.mean, own.covariance, mean, covariance)
        held.append(abs(value - truth) < 1.96 * frechet_error(features, mean, covariance))
    assert 0.9 <= np.mean(held) <= 0.99


def test_the_error_of_the_frechet_distance_is_that_of_the_jackknife():
    """Also with fewer images than dimensions, where no covariance can be inverted."""
    for num in (60, 12):
        features, other = normal(0, num, 20) * torch.linspace(0.1, 2, 20), statistics(normal(1, 50, 20, shift=0.2))
        target = (other.mean, other.covariance)
        left_out = []
        for index in range(num):
            own = statistics(torch.cat([features[:index], features[index + 1 :]]))
            left_out.append(frechet_distance(own.mean, own.covariance, *target))
        jackknife = math.sqrt((num - 1) * np.var(left_out))
        assert frechet_error(features, *target) == pytest.approx(jackknife, rel=0.35)


def test_the_distance_at_infinity_has_less_bias():
    """Of equal distributions it is near 0, where the distance of 800 images is not."""
    mean, covariance, dim = torch.zeros(40), torch.eye(40), 40
    plain, infinite = [], []
    for seed in range(5):
        features = normal(seed, 800, dim)
        own = statistics(features)
        plain.append(frechet_distance(own.mean, own.covariance, mean, covariance))
        infinite.append(frechet_at_infinity(features, mean, covariance))
    assert abs(np.mean(infinite)) < 0.2 * np.mean(plain)
    with pytest.raises(UserError, match="at least 160 images for 40 dimensions, not 100"):
        frechet_at_infinity(normal(0, 100, dim), mean, covariance)


def test_inception_score_runs_from_1_to_the_number_of_classes():
    sure = 50 * torch.nn.functional.one_hot(torch.arange(7).repeat(100)).float()
    assert inception_score(sure)[0] == pytest.approx(7, rel=1e-6)
    assert inception_score(torch.zeros(100, 7))[0] == pytest.approx(1, rel=1e-9)
    by_class = sure[torch.arange(7).repeat(100).argsort()]
    assert inception_score(by_class)[0] < 3 and inception_score(shuffled(by_class))[0] > 6
    with pytest.raises(UserError, match="10 parts, and 9 images"):
        inception_score(torch.zeros(9, 7))


def test_intervals_of_density_coverage_and_precision_hold_the_mean_of_repeats():
    """The reference is the same in 200 repeats; the truth is the mean over all of them."""
    real, repeats = normal(1000, 150, 2), []
    for seed in range(200):
        around = neighbourhoods(real, normal(seed, 100, 2, scale=1.3))
        coverage = (around.coverage, 1.96 * around.coverage_error)
        density = (around.density, 1.96 * around.density_error)
        low, high = wilson(around.precision, 100)
        repeats.append((*coverage, *density, around.precision, low, high))
    values = np.array(repeats)
    for at in (0, 2):
        held = np.mean(np.abs(values[:, at] - values[:, at].mean()) < values[:, at + 1])
        assert 0.9 <= held <= (1 if at == 0 else 0.99)  # of the coverage the jackknife is cautious
    truth = values[:, 4].mean()
    assert 0.9 <= np.mean((values[:, 5] < truth) & (truth < values[:, 6])) <= 0.99


def test_intervals_of_recall_and_inception_score_hold_the_truth():
    """As `benchmarks/coverage.py` prints, which has all intervals."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices
    rows = coverage(repeats=200, others=200, only=("recall", "is"))
    torch.set_num_threads(threads)
    assert [name for name, *_ in rows] == ["recall", "is"]
    assert all(0.9 <= held <= 0.99 for _, held, *_ in rows)


def test_names_of_metrics():
    assert metric_names("fid, kid,fid") == ("fid", "kid") and metric_names(["pr"]) == ("pr",)
    with pytest.raises(UserError, match="unknown metric 'kidd'.*did you mean 'kid'.*known: fid"):
        metric_names("kidd")
    with pytest.raises(UserError, match="`metrics` is empty"):
        metric_names([])


def test_the_monge_distance_is_that_of_the_definition():
    """In one dimension, where all directions are 1 or -1; and along given directions, one by one."""
    a, b = normal(0, 40, 1), normal(1, 40, 1, shift=0.5)
    sorted_a, sorted_b = (np.sort(x[:, 0].numpy()) for x in (a, b))
    assert monge_distance(a, b, 7) == pytest.approx(3 * np.mean((sorted_a - sorted_b) ** 2), rel=1e-12)
    a, b = normal(0, 30, 5), normal(1, 30, 5, scale=2)
    directions = np.random.RandomState(0).randn(250, 5)
    costs = []
    for u in directions / np.linalg.norm(directions, axis=1, keepdims=True):
        costs.append(np.mean((np.sort(a.numpy() @ u) - np.sort(b.numpy() @ u)) ** 2))
    assert monge_distance(a, b, 250) == pytest.approx(3 * 5 * np.mean(costs), rel=1e-12)


def test_the_monge_distance_of_gaussians_is_the_closed_form():
    """Of a shift 3 |m|^2, of a scale 3 D (1 - s)^2; it falls to them with the number of images."""
    dim, base, directions = 8, normal(0, 2000, 8), 300
    assert monge_distance(base, base, 10) == 0
    shift = monge_distance(base, base + 0.7, directions)
    assert shift == pytest.approx(3 * dim * 0.7**2, rel=4 * math.sqrt(2 / directions))
    assert monge_distance(base, 1.5 * base, directions) == pytest.approx(3 * dim * 0.25, rel=0.05)
    other = normal(1, 2000, 8, scale=1.5)
    assert monge_distance(base, other, directions) == pytest.approx(3 * dim * 0.25, rel=0.15)
    few = np.mean([monge_distance(normal(2 * seed, 100, 8), normal(2 * seed + 1, 100, 8), 100) for seed in range(4)])
    assert 0 < monge_distance(base, normal(1, 2000, 8), 100) < few / 5


def test_the_monge_distance_of_unequal_sets_is_of_a_fixed_subset():
    a, b = normal(0, 50, 4), normal(1, 500, 4, shift=0.3)
    kept = b[np.random.RandomState(1).permutation(500)[:50]]
    assert monge_distance(a, b) == monge_distance(a, kept) == monge_distance(a.flip(0), kept.flip(0))


def test_tiles_do_not_change_neighbourhoods(monkeypatch):
    """Sets that no tile divides, in tiles of 16 and in one."""
    real, made = normal(0, 83, 3), normal(1, 70, 3, scale=1.2)
    whole = neighbourhoods(real, made)
    monkeypatch.setattr(neighbours, "TILE", 16)
    tiled = neighbourhoods(real, made)
    for field in ("inside", "found", "balls", "covered", "sole"):
        assert torch.equal(getattr(whole, field), getattr(tiled, field))
