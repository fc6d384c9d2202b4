"""Measurements and their noise: units, bad input, the bias of counts as Gaussians, summaries, conjugate gradients."""

import math

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.inverse.conjugate_gradients import conjugate_gradients
from elucid.training.inverse.noise import GaussianNoise, PoissonNoise
from elucid.training.inverse.operators.identity import Identity
from elucid.training.inverse.operators.superres import SuperResolution
from elucid.training.inverse.problem import InverseProblem
from elucid.training.inverse.summary import summary

AFFINE = (torch.tensor([100.0, 3.0]), torch.tensor([120.0, -2.0]))
SHAPE = (2, 4, 6)


def problem(operator=None, noise=None, measurement=None, affine=AFFINE):
    return InverseProblem(operator or SuperResolution(2), affine, SHAPE, noise, measurement)


def test_an_observation_is_of_normalised_images():
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    own = AFFINE[0].reshape(-1, 1, 1) * x + AFFINE[1].reshape(-1, 1, 1)
    one = problem(noise=GaussianNoise(5.0))
    seen = one.observe(one.operator(own), x)
    assert torch.allclose(seen.value, one.measure(x)) and torch.allclose(seen.variance, torch.tensor(25.0).double())
    y = torch.randn_like(seen.value)
    assert torch.allclose((one.measure(x) * y).sum(), (x * one.adjoint(y)).sum())
    assert one.observe(one.operator(own).float(), x.float()).value.dtype == torch.float32
    assert one.measured_shape == (2, 2, 3) and one.units.value.flatten().tolist() == [100, 3]


def test_one_measurement_serves_all_samples_and_others_are_counted():
    y = torch.arange(12).reshape(2, 2, 3)  # integers, as of a picture
    one = problem(measurement=y)
    x = torch.zeros(5, *SHAPE)
    assert one.observe(None, x).value.shape == (1, 2, 2, 3)
    assert one.observe(torch.zeros(5, 2, 2, 3), x).value.shape == (5, 2, 2, 3)
    for given in (torch.zeros(4, 2, 2, 3), torch.zeros(5, 2, 4, 6)):
        with pytest.raises(UserError, match="`measurement`"):
            one.observe(given, x)
    with pytest.raises(UserError, match="`measurement`"):
        problem().observe(None, x)


def test_impossible_measurements_are_refused():
    for y in (
        torch.zeros(2, 2, 4),
        torch.full((2, 2, 3), torch.nan),
        torch.full((2, 2, 3), torch.inf),
        torch.zeros(()),
    ):
        with pytest.raises(UserError, match="`measurement`"):
            problem(measurement=y)
    with pytest.raises(UserError, match="`measurement_noise`"):
        problem(noise=PoissonNoise(2.0), measurement=torch.tensor([[[1.0, -1, 1]] * 2] * 2))
    problem(noise=GaussianNoise(1.0), measurement=torch.tensor([[[1.0, -1, 1]] * 2] * 2))
    for affine in (None, (torch.ones(3), torch.zeros(3))):
        with pytest.raises(UserError, match="encoder|`operator`"):
            problem(affine=affine)
    for make in (
        lambda: GaussianNoise(-1.0),
        lambda: GaussianNoise(math.nan),
        lambda: GaussianNoise(math.inf),
        lambda: PoissonNoise(0.0),
        lambda: PoissonNoise(math.inf),
    ):
        with pytest.raises(UserError, match="`measurement_noise`"):
            make()


def test_noise_is_drawn_with_its_mean_and_variance():
    clean, random = torch.full((4, 20000), 30.0, dtype=torch.float64), torch.Generator().manual_seed(0)
    for noise, variance in ((GaussianNoise(3.0), 9.0), (PoissonNoise(4.0), 30 / 4)):
        y = noise.sample(clean, random)
        assert float(y.mean()) == pytest.approx(30, abs=0.05) and float(y.var()) == pytest.approx(variance, rel=0.03)
    assert torch.equal((y * 4).round(), y * 4) and float(noise.variance(y).mean()) == pytest.approx(30.25 / 4, rel=0.03)


@pytest.mark.parametrize("rate", [0.1, 0.7, 3.0, 20.0, 300.0])
def test_many_counts_of_one_rate_have_no_bias(rate):
    """The mean of values weighted by 1 / variance, over all counts with their probabilities, is the rate itself.

    With y itself and the variance max(y, 1), which is the obvious one, it is too small by about one count.
    """
    k = torch.arange(1200, dtype=torch.float64)
    probability = (k * math.log(rate) - rate - torch.lgamma(k + 1)).exp()
    noise = PoissonNoise(1.0)
    weights = probability / noise.variance(k)
    assert float((weights * noise.value(k)).sum() / weights.sum()) == pytest.approx(rate, rel=1e-9)
    weights = probability / k.clamp(min=1)
    obvious = float((weights * k).sum() / weights.sum())
    assert rate < 5 or rate - obvious == pytest.approx(1, abs=0.4)


def of_one_pixel(log_density, u):
    """Mean and deviation of a density on a grid."""
    density = (log_density - log_density.max()).exp()
    mean = float((density * u).sum() / density.sum())
    return mean, math.sqrt(float((density * (u - mean) ** 2).sum() / density.sum()))


@pytest.mark.parametrize(("rate", "bound"), [(2, 0.25), (5, 0.13), (20, 0.035), (100, 0.005)])
def test_the_bias_of_a_pixel_of_few_counts_is_bounded(rate, bound):
    """Of the posterior mean of one pixel whose prior is N(rate, (rate / 2)^2), in units of the posterior's deviation.

    By the Gaussian and by numerical integration, averaged over the counts with their probabilities. That with y itself
    and the variance max(y, 1) is larger.
    """
    u, std, noise = torch.linspace(1e-6, 4 * rate + 20, 20001, dtype=torch.float64), rate / 2, PoissonNoise(1.0)
    ours = obvious = whole = 0.0
    for k in range(int(rate + 10 * math.sqrt(rate) + 10)):
        count = torch.tensor(float(k), dtype=torch.float64)
        mean, spread = of_one_pixel(-0.5 * ((u - rate) / std) ** 2 + k * u.log() - u, u)
        probability = math.exp(k * math.log(rate) - rate - math.lgamma(k + 1))

        def bias(value, variance, mean=mean, spread=spread):
            return abs(rate + std**2 / (std**2 + variance) * (value - rate) - mean) / spread

        ours += probability * bias(float(noise.value(count)), float(noise.variance(count)))
        obvious += probability * bias(k, max(k, 1))
        whole += probability
    assert whole == pytest.approx(1, abs=1e-6) and ours < bound < obvious


def test_summaries_group_the_members():
    samples = torch.arange(12.0).reshape(6, 1, 1, 2)
    out = summary(samples, 3)
    assert out.mean.shape == (2, 1, 1, 2) and out.mean.flatten().tolist() == [2, 3, 8, 9]
    assert out.std.flatten().tolist() == [2.0] * 4
    # Of three members the range is all there is: it has the truth in one of two cases.
    assert (
        out.level == 0.5
        and out.low.flatten().tolist() == [0, 1, 6, 7]
        and out.high.flatten().tolist() == [4, 5, 10, 11]
    )
    for members, count in ((4, 6), (1, 6), (2, 0)):
        with pytest.raises(UserError, match="`members`"):
            summary(samples[:count], members)
    with pytest.raises(UserError, match="level"):
        summary(samples, 3, 1.0)


@pytest.mark.parametrize("members", [5, 8, 19, 30])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_have_the_truth_as_often_as_they_say(members, level):
    """Whatever the distribution, here a skewed one, and for few members as well; between ranks about as often."""
    torch.manual_seed(members)
    draws = torch.randn(members + 1, 1, 100, 200).exp()
    out = summary(draws[1:], members, level)
    assert out.level == pytest.approx(min(level, (members - 1) / (members + 1)))
    inside = ((out.low[0] < draws[0]) & (draws[0] < out.high[0])).double().mean()
    rank = (1 - out.level) / 2 * (members + 1)
    assert float(inside) == pytest.approx(out.level, abs=0.012 if abs(rank - round(rank)) < 1e-9 else 0.04)


def test_conjugate_gradients_solve_each_system_of_a_batch():
    torch.manual_seed(0)
    roots = torch.randn(5, 6, 6, dtype=torch.float64)
    matrices = roots @ roots.mT + 0.1 * torch.eye(6)
    b = torch.randn(5, 2, 3, dtype=torch.float64)

    def apply(v):
        return (matrices[: len(v)] @ v.flatten(1)[..., None]).reshape(v.shape)

    v = conjugate_gradients(apply, b, 1e-12, 50)
    assert torch.allclose(v.flatten(1), torch.linalg.solve(matrices, b.flatten(1)), rtol=1e-8)
    # A sample does not depend on the others, which take other numbers of iterations.
    assert torch.equal(conjugate_gradients(apply, b[:2], 1e-3, 50), conjugate_gradients(apply, b, 1e-3, 50)[:2])
    error = (apply(conjugate_gradients(apply, b, 1e-3, 50)) - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
    assert (error <= 1e-3).all()
    single = conjugate_gradients(lambda v: apply(v.double()).float(), b.float(), 1e-12, 50, torch.float64)
    assert single.dtype == torch.float32 and torch.allclose(single, v.float(), rtol=1e-3, atol=1e-3)


def test_conjugate_gradients_stay_finite_where_there_is_no_solution():
    b = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 2.0]], dtype=torch.float64)
    v = conjugate_gradients(lambda v: diagonal * v, b, 1e-12, 50)
    assert v.isfinite().all() and not v[1].any()
    assert ((b - diagonal * v).norm(dim=1) <= b.norm(dim=1)).all()  # never worse than 0
    skew = torch.tensor([[0.1, 1.0], [-1.0, 0.1]], dtype=torch.float64)
    for iterations in range(1, 12):
        v = conjugate_gradients(lambda v: v @ skew, b[:1], 1e-12, iterations)
        assert float((b[:1] - v @ skew).norm()) <= float(b[:1].norm())
    calls = []
    conjugate_gradients(lambda v: calls.append(1) or -v, b[2:], 1e-12, 50)
    assert len(calls) == 1  # no direction to go is left
    smallest = conjugate_gradients(lambda v: diagonal[:1] * v, torch.tensor([[3.0, 0.0]]).double(), 1e-12, 50)
    assert smallest.tolist() == [[3.0, 0.0]]


def test_exact_measurements_are_the_default():
    assert float(problem(Identity()).observe(torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE)).variance.sum()) == 0
