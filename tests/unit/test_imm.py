"""Inductive moment matching: on a Gaussian its expected gradient is 0 at the exact map, and at a wrong one not."""

import math

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser
from elucid.training.losses.fewstep.imm import IMM, moved
from elucid.training.noise.fewstep.flow_map import FlowMapSteps
from elucid.training.noise.times import UniformTime
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.preconds.fewstep.imm import IMMPrecond
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.samplers.fewstep.flow_map import FlowMapSampler
from elucid.training.types import Batch, NetSpec, Prediction
from tests.oracles import step_at

MEAN, STD = 0.3, 0.5


class GaussianMap(IMMPrecond):
    """The flow map of N(MEAN, STD^2), plus `wrong[0]`, plus `wrong[1]` times how far x lies off."""

    def __init__(self, wrong=(0.0, 0.0), numbers=4, **options):
        super().__init__(nn.Identity(), NetSpec((1, numbers), 1, vector={"sigma_to": 1}), "fp64", **options)
        self.wrong = nn.Parameter(torch.tensor(wrong, dtype=torch.float64))

    def forward(self, x, sigma, cond=None):
        to, variance = cond["sigma_to"], STD**2 + sigma**2
        end = MEAN + (x - MEAN) * ((STD**2 + to**2) / variance).sqrt()
        x0 = torch.where(sigma > to, (sigma * end - to * x) / (sigma - to).clamp_min(1e-300), x)
        return Prediction(x0 + self.wrong[0] + self.wrong[1] * (x - MEAN) / variance.sqrt())

    def data(self, count):
        return Batch(MEAN + STD * torch.randn(count, *self.spec.sample_shape, dtype=torch.float64))


def gradient(denoiser, loss, draws=25, count=6000):
    """The mean gradient of `wrong` over some batches, and its standard error."""
    torch.manual_seed(0)
    found = []
    for _ in range(draws):
        total = loss(denoiser, denoiser.data(count), step_at()).loss.mean()
        found.append(torch.autograd.grad(total, denoiser.wrong)[0])
    found = torch.stack(found)
    return found.mean(0), found.std(0) / math.sqrt(draws)


def test_at_the_exact_map_other_particles_pull_nowhere():
    """Each difference from 0 is within four standard errors, each of which is a small share of a wrong map's."""
    loss = IMM(UniformTime(), k=3, own_pairs=False)
    exact, error = gradient(GaussianMap(), loss)
    assert (exact.abs() < 4 * error).all()
    for index, wrong in enumerate([(0.05, 0.0), (0.0, 0.05)]):
        found, its_error = gradient(GaussianMap(wrong), loss)
        assert found[index] > 20 * its_error[index] and found[index] > 20 * error[index]


def test_own_pairs_pull_a_little_towards_the_mean():
    """x_r is not on the flow through x_t, only on average, so a particle's own pair shrinks the map a little.

    The map where this pull ends is nearer than 0.01 for the paper's k, and nearer the smaller the step from t to r is.
    """
    far = {k: gradient(GaussianMap(), IMM(UniformTime(), k=k)) for k in (7, 12)}
    wrong, _ = gradient(GaussianMap((0.0, 0.05)), IMM(UniformTime(), k=12))
    for shift, stretch in (found for found, _ in far.values()):
        assert abs(shift) < 0.1 and stretch > 0
    slope = (wrong[1] - far[12][0][1]) / 0.05
    assert far[12][0][1] / slope < 0.01 and far[12][0][1] < 0.5 * far[7][0][1]


@pytest.mark.parametrize("own_pairs", [True, False])
@pytest.mark.parametrize("by_class", [True, False])
def test_it_is_the_discrepancy_of_each_group(own_pairs, by_class):
    """By loops over groups and pairs, from the published definition."""
    torch.manual_seed(1)
    loss, denoiser = IMM(UniformTime(), k=7, own_pairs=own_pairs, by_class=by_class), GaussianMap((0.1, 0.2))
    batch = denoiser.data(8)
    batch.cond["labels"] = torch.eye(2)[[0, 1, 1, 1, 0, 0, 1, 1]]
    t = torch.tensor([0.8, 0.3], dtype=torch.float64).repeat_interleave(4).reshape(-1, 1, 1, 1)
    s = torch.tensor([0.1, 0.28], dtype=torch.float64).repeat_interleave(4).reshape(-1, 1, 1, 1)
    noise = torch.randn_like(batch.images)
    found = loss.at(denoiser, batch, denoiser.process.sigma(t), denoiser.process.sigma(s), noise).detach()
    eta = torch.maximum(t / (1 - t) - (0.994 / 0.006 - 0.006 / 0.994) / 2**7, s / (1 - s))
    r = eta / (1 + eta)
    y, z = (
        moved(denoiser, batch.images + time / (1 - time) * 0.5 * noise, time / (1 - time) / 2, s / (1 - s) / 2, batch)
        for time in (t, r)
    )
    for group, members in enumerate((range(4), range(4, 8))):
        one_t, one_s = float(t[4 * group]), float(s[4 * group])
        scale = abs((1 - one_s) * one_t - (1 - one_t) * one_s) / math.hypot(one_t, 1 - one_t) * 0.5

        def kernel(one, other, scale=scale):
            return math.exp(-float((one - other).detach().norm()) / (4 * scale))

        snr = 2 * math.log((1 - one_t) / one_t)
        weight = 0.5 / (1 + math.exp(snr - 5)) * 2 / (one_t * (1 - one_t)) * (1 - one_t)
        weight /= one_t**2 + (1 - one_t) ** 2
        total = 0.0
        for j in members:
            labels = batch.cond["labels"]
            others = [k for k in members if (own_pairs or k != j) and (not by_class or labels[j].equal(labels[k]))]
            of_pairs = [kernel(y[j], y[k]) + kernel(z[j], z[k]) - 2 * kernel(y[j], z[k]) for k in others]
            total += sum(of_pairs) / max(len(others), 1) / 4
        assert float(found[4 * group : 4 * group + 4].mean()) == pytest.approx(weight * total, rel=1e-6)


def test_levels_of_a_group_are_one_and_steps_stop_at_s():
    """s <= r <= t; where r = s, the particles of the target are where they were."""
    asked, loss, denoiser = [], IMM(UniformTime(), k=7), GaussianMap()
    denoiser.register_forward_hook(lambda module, inputs, out: asked.append((inputs[1], inputs[2]["sigma_to"])))
    loss(denoiser, denoiser.data(400), step_at())
    (t, s), (r, again) = (tuple(one.reshape(100, 4) for one in pair) for pair in asked)
    assert all(torch.equal(one, one[:, :1].expand(-1, 4)) for one in (t, s, r)) and torch.equal(s, again)
    assert len(t[:, 0].unique()) > 90 and (s <= r).all() and (r <= t).all() and (r == s).any() and (r > s).any()
    assert s.min() >= denoiser.sigma_min and t.max() <= denoiser.sigma_max
    x = torch.randn(4, 1, 1, 4, dtype=torch.float64)
    level = torch.full((4, 1, 1, 1), 0.5, dtype=torch.float64)
    assert torch.equal(moved(denoiser, x, level, level, Batch(x)), 0.5 * x)


class Dropped(IMMPrecond):
    """A denoiser with dropout."""

    def __init__(self):
        super().__init__(nn.Dropout(0.5), NetSpec((4, 4), 1, vector={"sigma_to": 1}), "fp64")

    def forward(self, x, sigma, cond=None):
        return Prediction(self.model(torch.ones_like(x)))


def test_both_sides_have_the_same_dropout_masks():
    """The step from t to r is so small that only other masks could tell y and z apart."""
    torch.manual_seed(0)
    loss, denoiser = IMM(UniformTime(0.3, 0.9), k=40), Dropped().train()
    images = torch.zeros(8, 1, 4, 4, dtype=torch.float64)
    losses = [loss(denoiser, Batch(images), step_at()).loss.abs().max() for _ in range(3)]
    assert max(losses) < 1e-6
    assert torch.rand(1) != torch.rand(1), "the generator has gone on"


def test_below_t_min_the_flow_has_ended():
    class Half(nn.Module):
        def forward(self, x, c_noise, cond):
            return x / 2 + cond["sigma_to"].reshape(-1, 1, 1, 1) / 1000

    denoiser = IMMPrecond(Half(), NetSpec((2, 2), 1, vector={"sigma_to": 1}), "fp64", prediction="x")
    x, sigma = torch.randn(3, 1, 2, 2, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    at_end = {"sigma_to": torch.tensor([denoiser.sigma_min], dtype=torch.float64)}
    d = denoiser(x, sigma, at_end).x0
    step = 0.994 * (d + denoiser.sigma_min / 2.0 * (x - d))
    for cond in ({"sigma_to": torch.zeros(1)}, {"sigma_to": torch.full((1,), denoiser.sigma_min / 4)}):
        assert torch.allclose(denoiser(x, sigma, cond).x0, step, atol=1e-12)
    assert not torch.allclose(d, step, atol=1e-3)


def test_steps_end_where_the_flow_does():
    denoiser = GaussianMap()
    times = [0.994 + (0.006 - 0.994) * i / 4 for i in range(4)]
    found = FlowMapSteps()(denoiser, 4)
    assert found[:-1].tolist() == pytest.approx([0.5 * t / (1 - t) for t in times], rel=1e-9) and found[-1] == 0
    assert FlowMapSteps(num_steps=1)(denoiser).tolist() == pytest.approx([0.5 * 0.994 / 0.006, 0.0], rel=1e-9)
    ends = FlowMapSteps(spacing="edm")(denoiser, 2)
    roots = [float(one) ** (1 / 7) for one in (denoiser.sigma_max, denoiser.sigma_min)]
    assert float(ends[1]) == pytest.approx((sum(roots) / 2) ** 7, rel=1e-9)
    flow = FlowPrecond(nn.Identity(), NetSpec((1, 1), 1, vector={"sigma_to": 1}))
    assert FlowMapSteps()(flow, 2).tolist()[1:] == pytest.approx([1.0, 0.0]) and FlowMapSteps()(flow, 2)[0] == 1e8
    assert FlowMapSteps()(EDMPrecond(nn.Identity(), NetSpec((1, 1), 1)), 1).tolist() == pytest.approx([80.0, 0.0])


def test_impossible_numbers():
    loss, denoiser = IMM(UniformTime()), GaussianMap()
    with pytest.raises(UserError, match=r"loss.particles=4 does not divide the 6 images"):
        loss(denoiser, denoiser.data(6), step_at())
    with pytest.raises(UserError, match="`precond`=imm"):
        loss.check(EDMPrecond(nn.Identity(), NetSpec((1, 1), 1)))
    for options, message in (({"particles": 1}, "particles=1"), ({"k": 0}, "loss.k=0")):
        with pytest.raises(UserError, match=message):
            IMM(UniformTime(), **options)
    for options, message in (
        ({"t_min": 0.9, "t_max": 0.1}, "t_min < t_max"),
        ({"prediction": "epsilon"}, "prediction='epsilon'"),
        ({"second": "no"}, "second='no'"),
    ):
        with pytest.raises(UserError, match=message):
            GaussianMap(**options)
    with pytest.raises(UserError, match="spacing='odd'"):
        FlowMapSteps(spacing="odd")


def energy(one, other):
    """The energy distance of two sets of points [N,D]."""
    return float(2 * torch.cdist(one, other).mean() - torch.cdist(one, one).mean() - torch.cdist(other, other).mean())


def test_it_learns_three_clumps_in_one_step():
    """A few hundred steps; nearer than a Gaussian of the same deviation, and than the centres of the clumps."""
    torch.manual_seed(0)
    centres = torch.tensor([[-0.6, -0.5], [0.5, -0.4], [0.0, 0.6]])

    def data(count):
        return centres[torch.randint(3, (count,))] + 0.12 * torch.randn(count, 2)

    loss, network = IMM(UniformTime(), k=7), {"name": "points_mlp", "hidden": 128}
    denoiser = make_denoiser(network, {"name": "imm", "time_scale": 4.0}, loss.adapt(NetSpec((1, 1), 2))).train()
    steps, optimizer = 500, torch.optim.Adam(denoiser.parameters(), betas=(0.9, 0.99))
    for index in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (index + 1) / 100) * (1 - index / steps)
        optimizer.zero_grad()
        loss(denoiser, Batch(data(256)[:, :, None, None]), step_at()).loss.mean().backward()
        optimizer.step()
        denoiser.after_step(step_at())
    denoiser.eval()
    real, found = data(3000), {}
    for count in (1, 2):
        sigmas = FlowMapSteps()(denoiser, count)
        x = torch.randn(3000, 2, 1, 1) * sigmas[0]
        with torch.no_grad():
            out = FlowMapSampler()(BoundDenoiser(denoiser), x, sigmas, torch.randn_like)
        found[count] = energy(out.flatten(1).float(), real)
    gaussian, alone = real.mean(0) + real.std(0) * torch.randn(3000, 2), centres[torch.randint(3, (3000,))]
    assert found[2] < found[1] < min(energy(gaussian, real), energy(alone, real)), found
