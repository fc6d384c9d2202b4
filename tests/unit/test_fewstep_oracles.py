"""Losses of few steps against maps that are known: the expected gradient at the exact map is 0, or its bias derived.

Expectations over images and noise are integrals on a grid (`flow_maps.grid`), but for IMM's, which needs particles. A
map is wrong by a shift and a stretch; `root` is how wrong the map is at which the expected gradient vanishes.
"""

import math

import pytest
import torch

from elucid.evaluation.toy.densities import density
from elucid.evaluation.toy.flow import flowed
from elucid.evaluation.toy.mixture import Mixture
from elucid.training.registry.components import make
from elucid.training.snapshots.transfer import Teacher
from elucid.training.types import Batch
from tests.flow_maps import (
    ConsistencyMap,
    Denoised,
    Gaussian,
    Line,
    Plane,
    StepMap,
    Straight,
    VelocityMap,
    gradient,
    grid,
)
from tests.oracles import step_at

GAUSSIAN, CLUMPS = Gaussian(), Line([-0.5, 0.4], [0.15, 0.25], [0.35, 0.65])
DATA = {"gaussian": GAUSSIAN, "clumps": CLUMPS}
WRONG = 0.02


def level(value: float, count: int = 1) -> torch.Tensor:
    return torch.full((count, 1, 1, 1), value, dtype=torch.float64)


def root(gradient_of) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient at the exact map, its slopes [2,2], and the shift and stretch at which it is 0, by one step."""
    there = gradient_of((0.0, 0.0))
    ways = ((WRONG, 0.0), (0.0, WRONG))
    slopes = torch.stack([(gradient_of(w) - gradient_of(tuple(-one for one in w))) / (2 * WRONG) for w in ways], dim=1)
    return there, slopes, -torch.linalg.solve(slopes, there)


def of_pairs(loss, data, t: float, r: float, count: int = 64, kind=ConsistencyMap):
    """The expected gradient of a loss of pairs as a function of how wrong the map is."""
    batch, noise, chance = grid(data, count)

    def found(wrong):
        denoiser = kind(data, wrong)
        return gradient(denoiser, loss.at(denoiser, batch, level(t, len(batch)), level(r, len(batch)), noise), chance)

    return found


def with_teacher(name: str, data, **options):
    loss = make({"name": name, "teacher": "exact", **options}, "loss")
    loss.teacher, loss.average = Teacher(Denoised(data)), None
    return loss


def two_clumps() -> Mixture:
    return Mixture(
        torch.tensor([0.35, 0.65]), torch.tensor([[-0.5, 0.1], [0.4, 0.1]]), 0.15**2 * torch.eye(2).repeat(2, 1, 1)
    )


@pytest.mark.parametrize(("sigma", "to"), [(1.0, 0.0), (3.0, 0.5), (80.0, 0.0)])
def test_three_maps_agree(sigma, to):
    """Closed form, quantiles and the differential equation, of data whose coordinates are independent."""
    torch.manual_seed(0)
    mixture, points = two_clumps(), torch.randn(12, 2, dtype=torch.float64) * math.sqrt(0.25 + sigma**2)
    deviation = mixture.variances[0, 0].sqrt()
    across = Line(mixture.means[:, 0].tolist(), [float(deviation)] * 2, mixture.weights.tolist())
    along = Gaussian(float(mixture.means[0, 1]), float(deviation))
    ends = torch.tensor([sigma, to], dtype=torch.float64)
    solved = flowed(mixture, points, sigma, to)
    assert (solved[:, 0] - across.flow(points[:, 0], *ends)).abs().max() < 1e-9
    assert (solved[:, 1] - along.flow(points[:, 1], *ends)).abs().max() < 1e-9
    alone = Line(along.means.tolist(), along.deviations.tolist(), [1.0])
    assert (alone.flow(points[:, 1], *ends) - along.flow(points[:, 1], *ends)).abs().max() < 1e-12
    assert (across.denoised(points[:, 0], ends[0]) - mixture.denoised(points, sigma)[:, 0]).abs().max() < 1e-10
    h = 1e-5
    _, slope = torch.func.jvp(lambda x: across.flow(x, *ends), (points[:, 0],), (torch.ones(12).double(),))
    far, near = (across.flow(points[:, 0] + sign * h, *ends) for sign in (1, -1))
    assert (slope - (far - near) / (2 * h)).abs().max() < 1e-5


def test_a_flow_runs_in_both_directions_and_in_parts():
    mixture = density("ring")
    noise = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    there = flowed(mixture, 80 * noise, 80.0, 0.5, 1e-8)
    assert (flowed(mixture, there, 0.5, 80.0, 1e-8) - 80 * noise).abs().max() < 1e-4
    assert (flowed(mixture, there, 0.5, 0.0, 1e-8) - flowed(mixture, 80 * noise, 80.0, 0.0, 1e-8)).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["ct", "ict", "ect", "tcm"])
@pytest.mark.parametrize("gap", [0.2, 0.02])
def test_pairs_of_a_gaussian_have_the_derived_bias(name, gap):
    """E[x_r | x_t] is an Euler step, which shrinks: f(x_t) - E[f(x_r) | x_t] = (1 - cos) s u, u unit normal.

    cos is that of the angle of (s, t) and (s, r), so 1 - cos ~ ((t - r) s / (s^2 + t^2))^2 / 2, and the gradient with
    squares and the weight 1 / (t - r) is 2 b (1 - cos) s / (t - r): of the order of the gap.
    """
    options = {"distance": "squares", "weighting": "gap"}
    loss = make({"name": name, **options, **({"teacher": "first"} if name == "tcm" else {})}, "loss")
    loss.average, loss.first = None, Teacher(ConsistencyMap(GAUSSIAN))
    s, t, r = float(GAUSSIAN.deviations), 1.0, 1.0 - gap
    cos = (s * s + t * r) / math.sqrt((s * s + t * t) * (s * s + r * r))
    factor = t / (0.5 + t)
    found = of_pairs(loss, GAUSSIAN, t, r)((0.0, 0.0))
    assert found[0].abs() < 1e-12
    assert found[1] == pytest.approx(2 * factor * (1 - cos) * s / gap, rel=1e-8)
    assert 1 - cos == pytest.approx((gap * s / (s * s + t * t)) ** 2 / 2, rel=3 * gap)


@pytest.mark.parametrize(("distance", "c"), [("squares", 0.0), ("huber", 0.03)])
@pytest.mark.parametrize("data", DATA)
def test_the_bias_of_pairs_falls_with_the_gap(data, distance, c):
    loss = make({"name": "ect", "distance": distance, "c": c}, "loss")
    gaps = (0.1, 0.025)
    (far, _, wide), (near, slopes, close) = (root(of_pairs(loss, DATA[data], 1.0, 1 - gap)) for gap in gaps)
    assert close.norm() < 0.3 * wide.norm() and close.abs().max() < 0.006
    assert near.norm() < 0.5 * far.norm() and (slopes.diagonal() > 0.2).all()


def test_without_c_pairs_of_skewed_data_keep_a_bias():
    """The Euclidean norm asks for the median of f(x_r) given x_t, whose distance from the mean shrinks as the gap.

    So does the difference of neighbours: a share of it stays. A Gaussian has none, nor have squares, or c > 0 in the
    limit of small gaps.
    """
    roots = {}
    for gap in (0.2, 0.1):
        loss = make({"name": "ect", "c": 0.0}, "loss")
        roots[gap] = root(of_pairs(loss, CLUMPS, 1.0, 1 - gap, count=96))[2].norm()
    assert roots[0.1] > 0.6 * roots[0.2] and roots[0.1] > 0.03


def test_ect_begins_with_the_loss_of_diffusion():
    """At r = 0 the target is the clean image: the minimiser is E[y | x], not the map."""
    loss = make({"name": "ect", "distance": "squares"}, "loss")
    assert of_pairs(loss, CLUMPS, 1.0, 0.0, kind=Denoised)((0.0, 0.0)).abs().max() < 1e-9
    assert of_pairs(loss, CLUMPS, 1.0, 0.0)((0.0, 0.0)).abs().max() > 0.05


def test_the_second_stage_meets_the_first():
    """TCM at t = t' has its target in the first stage, and a wrong first stage is met as it is."""
    loss = make({"name": "tcm", "teacher": "first", "distance": "squares"}, "loss")
    for error in (0.0, 0.1):
        loss.first = Teacher(ConsistencyMap(CLUMPS, (error, 0.0)))
        r = float(loss.lower(level(1.0)))
        found = root(of_pairs(loss, CLUMPS, 1.0, r))[2]
        expected = error * (r / (0.5 + r)) / (1 / 1.5)  # the error at r, in units of that at t
        assert found[0] == pytest.approx(expected, abs=1e-3) and found[1].abs() < 1e-3


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_distillation_errs_by_its_solver(data, solver, order):
    """With the exact teacher a step of the solver errs by the gap to the power order + 1, the gradient by one less."""
    loss = with_teacher("cd", DATA[data], solver=solver, distance="squares", weighting="gap")
    roots = [root(of_pairs(loss, DATA[data], 1.0, 1 - gap))[2].norm() for gap in (0.1, 0.05)]
    assert roots[0] / roots[1] == pytest.approx(2**order, rel=0.25)
    assert roots[1] < (0.012 if solver == "euler" else 5e-4)


def test_distillation_in_the_plane():
    """Heun's step on a mixture whose flow is a differential equation; per point, so a few points do."""
    data = Plane(density("ring"))
    points, _ = data.mixture.sample(40, torch.Generator().manual_seed(0))
    batch = Batch(points[:, :, None, None])
    noise = torch.randn(batch.images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = with_teacher("cd", data, distance="squares", weighting="gap")
    loss.teacher = Teacher(Denoised(data, channels=2))

    def found(wrong, gap):
        denoiser = ConsistencyMap(data, wrong, channels=2)
        return gradient(denoiser, loss.at(denoiser, batch, level(0.5, 40), level(0.5 - gap, 40), noise))

    exact = {gap: float(found((0.0, 0.0), gap).norm()) for gap in (0.04, 0.02)}
    wrong = float(found((0.05, 0.0), 0.02).norm())
    assert exact[0.02] < 1e-3 < 0.02 * wrong and exact[0.02] < 0.4 * exact[0.04]


def tangents(name: str, data, c: float, share: float = 1.0, kind=ConsistencyMap):
    """The expected gradient of sCM or sCD, times c, so that it has a limit for large c."""
    loss = make({"name": name, "c": c, **({"teacher": "exact"} if name == "scd" else {})}, "loss")
    loss.teacher = Teacher(Denoised(data))
    batch, noise, chance = grid(data, 64)

    def found(wrong):
        denoiser = kind(data, wrong)
        return c * gradient(denoiser, loss.at(denoiser, batch, level(1.0, len(batch)), noise, share).loss, chance)

    return found


@pytest.mark.parametrize(
    ("name", "data", "c"), [("scm", "gaussian", 0.1), ("scm", "clumps", 1e4), ("scd", "clumps", 0.1)]
)
def test_tangents_vanish_at_the_exact_map(name, data, c):
    there, slopes, wrong = root(tangents(name, DATA[data], c))
    assert there.abs().max() < 1e-4 and wrong.abs().max() < 1e-4 and (slopes.diagonal() > 0.1).all()


def test_normalised_tangents_of_skewed_data_have_a_bias():
    """g / (|g| + c) has not the mean of g: a map of skewed data is off, by less the larger c is. sCD's is exact."""
    off = {c: root(tangents("scm", CLUMPS, c))[2].norm() for c in (0.1, 1.0, 10.0)}
    assert 0.02 < off[0.1] < 0.1 and off[1.0] < 0.5 * off[0.1] and off[10.0] < 0.3 * off[1.0]


def test_scm_begins_with_the_loss_of_diffusion():
    """Without its share of dF/dt the minimiser is E[y | x]."""
    assert tangents("scm", CLUMPS, 1e4, 0.0, Denoised)((0.0, 0.0)).abs().max() < 1e-4
    assert tangents("scm", CLUMPS, 1e4, 0.0)((0.0, 0.0)).abs().max() > 0.02


def velocities(name: str, data, p: float, t: float = 0.6, r: float = 0.2):
    loss = make({"name": name, "norm_p": p, "norm_eps": 0.1}, "loss")  # a weight that the grid resolves
    batch, noise, chance = grid(data, 96)

    def found(wrong):
        denoiser, times = VelocityMap(data, wrong), [level(one, len(batch)) for one in (t, r)]
        return gradient(denoiser, loss.at(denoiser, batch.images, {}, *times, noise)[0], chance)

    return found


@pytest.mark.parametrize("name", ["mean_flow", "improved_mean_flow"])
@pytest.mark.parametrize(("data", "p"), [("clumps", 0.0), ("gaussian", 0.75)])
def test_mean_velocities_of_the_exact_map(name, data, p):
    """The target is linear in v, so that its mean given x_t is that of the velocity's mean: 0 at any gap."""
    for t, r in ((0.6, 0.2), (0.5, 0.5)):
        there, slopes, wrong = root(velocities(name, DATA[data], p, t, r))
        assert there.abs().max() < 1e-4 and wrong.abs().max() < 1e-4 and (slopes.diagonal() > 0.1).all()


@pytest.mark.parametrize("name", ["mean_flow", "improved_mean_flow"])
def test_weighted_by_their_own_error_velocities_of_skewed_data_have_a_bias(name):
    """With p > 0 the weight is of the draw's own error: a mean of skewed data is off. The paper's images are large."""
    assert root(velocities(name, CLUMPS, 0.75))[0].norm() > 0.05


def test_moments_of_two_clumps():
    """IMM: f_st(x_t) and f_sr(x_r) have one distribution, and other particles pull nowhere, whatever the data."""
    loss = make({"name": "imm", "k": 3, "own_pairs": False}, "loss")

    def found(wrong, draws=10, count=4000):
        torch.manual_seed(0)
        each = []
        for _ in range(draws):
            chosen = torch.multinomial(CLUMPS.weights, count, replacement=True)
            images = CLUMPS.means[chosen] + CLUMPS.deviations[chosen] * torch.randn(count, dtype=torch.float64)
            denoiser = StepMap(CLUMPS, wrong)
            each.append(gradient(denoiser, loss(denoiser, Batch(images.reshape(-1, 1, 1, 1)), step_at()).loss))
        each = torch.stack(each)
        return each.mean(0), each.std(0) / math.sqrt(draws)

    exact, error = found((0.0, 0.0))
    assert (exact.abs() < 4 * error).all()
    for index, wrong in enumerate([(0.3, 0.0), (0.0, 0.3)]):
        there, its_error = found(wrong)
        assert there[index] > 8 * max(its_error[index], error[index])


@pytest.mark.parametrize("mirrored", [False, True])
def test_dmd2_asks_for_the_distribution_only(mirrored):
    """The exact map and its mirror image make the same points; both are at rest, and wrong ones are pulled back."""
    loss = make({"name": "dmd2", "teacher": "exact", "gan_weight": 0, "classifier_weight": 0}, "loss")
    loss.head, loss.teacher = None, Denoised(GAUSSIAN)
    mean, s = float(GAUSSIAN.means), float(GAUSSIAN.deviations)
    torch.manual_seed(0)
    x = mean + math.sqrt(s**2 + 6400) * torch.randn(20_000, 1, 1, 1, dtype=torch.float64)

    def found(wrong):
        denoiser, b = ConsistencyMap(GAUSSIAN, wrong), 80 / 80.5
        made = denoiser(x, 80.0).x0
        made = 2 * mean - made if mirrored else made
        shift = (-1 if mirrored else 1) * b * wrong[0]
        loss.fake = Denoised(Gaussian(mean + shift, abs(s + b * wrong[1])))  # the score of what is made
        return gradient(denoiser, loss.of_generator(made, *loss.diffusion.draw(made.detach()), {}).loss)

    assert found((0.0, 0.0)).abs().max() < 1e-12
    for index, wrong in enumerate([(0.05, 0.0), (0.0, 0.05)]):
        assert found(wrong)[index] > 0.01 and found(tuple(-one for one in wrong))[index] < -0.01


class Neighbour(Straight, Denoised):
    """The student of progressive distillation, exact if its steps end where the flow does."""

    def forward(self, x, sigma, cond=None):
        out = self.straight(x, sigma, self.to.expand_as(sigma)) + self.error(x, sigma)
        return type(super().forward(x, sigma))(out)


def test_a_students_error_is_that_of_its_teachers_steps():
    """Two DDIM steps of the exact denoiser err by their length: half as far from the flow with twice as many steps."""
    loss = make({"name": "progressive", "teacher": "exact"}, "loss")
    loss.teacher = Denoised(CLUMPS)
    batch, noise, chance = grid(CLUMPS, 48)

    def found(count):
        place = torch.full((len(batch),), count // 2)
        to = loss.levels(place[:1] + 1, count).double()

        def of(wrong):
            denoiser = Neighbour(CLUMPS, wrong)
            denoiser.to = to
            return gradient(denoiser, loss.at(denoiser, batch, place, count, noise), chance)

        return root(of)[2].norm()

    roots = [found(count) for count in (32, 64, 128)]
    assert roots[1] / roots[0] == pytest.approx(0.5, abs=0.1) and roots[2] / roots[1] == pytest.approx(0.5, abs=0.1)
