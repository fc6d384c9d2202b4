"""Flow matching on known denoisers: trajectories, orders of convergence, distributions, starts from pure noise."""

import math

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.rgb import RGB
from elucid.training.guidance.base import levels_of_times
from elucid.training.losses.flow import ERRORS, FlowMatching
from elucid.training.noise.paths import PATHS, PURE_NOISE, make_path
from elucid.training.noise.times import LogitNormalTime, UniformTime
from elucid.training.preconds.flow import PREDICTIONS, FlowPrecond
from elucid.training.preconds.wrapper import BoundDenoiser, DenoiserWrapper
from elucid.training.registry.components import make
from elucid.training.sampling.generate import sampling
from elucid.training.types import Batch, NetSpec, Prediction
from tests.oracles import GaussianDenoiser, MixtureDenoiser

ALL_PATHS = [*PATHS, "polynomial2"]
SPEC = NetSpec((1, 2), 1)


class Exact(nn.Module):
    """The network whose prediction, in a `FlowPrecond`, is that of a known denoiser."""

    def __init__(self, known):
        super().__init__()
        self.known = known

    def forward(self, x, c_noise, cond):
        c = self.c
        y = x / c.c_in
        return (self.known(y, self.sigma, cond).x0 - c.c_skip * y) / c.c_out


class FlowForm(FlowPrecond):
    """A known denoiser as a network that predicts v, x, epsilon or score, in float64."""

    def __init__(self, known, **options):
        super().__init__(Exact(known), known.spec, **options)

    def forward(self, x, sigma, cond=None):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        c = self.model.c = self.coefficients(sigma)
        self.model.sigma = sigma
        return Prediction(c.c_skip * x + c.c_out * self.model(c.c_in * x, c.c_noise, cond))


def levels(num_steps, first=0.99, last=0.0):
    return make_path("linear").sigma(torch.linspace(first, last, num_steps + 1, dtype=torch.float64))


def solve(denoiser, sampler, sigmas, count=64, seed=0, **options):
    x = torch.randn(count, 1, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * sigmas[0]
    return make({"name": sampler, **options}, "sampler")(BoundDenoiser(denoiser), x, sigmas, torch.randn_like)


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("time", ["noise", "data"])
def test_all_parameterisations_give_the_same_trajectory(path, prediction, time):
    """Of the exact denoiser of a mixture: EDM's sampler in sigma, with flow's forms, ends where it ends without."""
    known = MixtureDenoiser().double()
    sigmas = levels(20, 0.98)
    form = FlowForm(known, path=path, prediction=prediction, time=time, noise_scale=1.5)
    assert torch.allclose(solve(form, "edm", sigmas), solve(known, "edm", sigmas), rtol=0, atol=1e-6)
    t = make_path(path).time(sigmas[:-1])
    c_noise = form.coefficients(1.5 * sigmas[:-1].reshape(-1, 1, 1, 1)).c_noise.flatten()
    assert torch.allclose(c_noise, t if time == "noise" else 1 - t, atol=1e-12)


def test_linear_coefficients():
    """As the issue of record writes them: c_skip = c_in = 1/(1+sigma), c_out = -sigma/(1+sigma)."""
    sigma = torch.tensor([1e-3, 0.5, 80.0]).reshape(-1, 1, 1, 1)
    c = FlowPrecond(nn.Identity(), SPEC).coefficients(sigma)
    assert torch.allclose(c.c_skip, 1 / (1 + sigma)) and torch.allclose(c.c_in, 1 / (1 + sigma))
    assert torch.allclose(c.c_out, -sigma / (1 + sigma)) and torch.allclose(c.c_noise, sigma / (1 + sigma))
    weight = FlowMatching(UniformTime()).weight_at(FlowPrecond(nn.Identity(), SPEC), sigma)
    assert torch.allclose(weight, ((1 + sigma) / sigma) ** 2)
    # The cosine path is EDM's preconditioning at sigma_data = 1, its velocity pi/2 times EDM's F.
    edm = make_edm(1.0).coefficients(sigma)
    cosine = FlowPrecond(nn.Identity(), SPEC, path="cosine").coefficients(sigma)
    assert torch.allclose(cosine.c_skip, edm.c_skip) and torch.allclose(cosine.c_in, edm.c_in)
    assert torch.allclose(cosine.c_out, -2 / math.pi * edm.c_out)


def make_edm(sigma_data):
    from elucid.training.preconds.edm import EDMPrecond

    return EDMPrecond(nn.Identity(), SPEC, sigma_data=sigma_data)


def test_euler_on_the_linear_path_is_euler_in_sigma():
    known = MixtureDenoiser().double()
    for sigmas in (levels(10), levels(10, 0.95, 0.05)):
        assert torch.allclose(solve(known, "flow_euler", sigmas), solve(known, "ddim", sigmas), rtol=0, atol=1e-6)
    assert not torch.allclose(solve(known, "flow_heun", levels(10)), solve(known, "edm", levels(10)), atol=1e-4)


@pytest.mark.parametrize("path", ["linear", "cosine", "linear_vp"])
@pytest.mark.parametrize("sampler, order", [("flow_euler", 1), ("flow_heun", 2)])
def test_order_of_convergence_in_t(sampler, order, path):
    known, curve = MixtureDenoiser().double(), make_path(path)

    def end(steps):
        return solve(known, sampler, curve.sigma(torch.linspace(0.9, 0.05, steps + 1, dtype=torch.float64)), path=path)

    exact = solve(known, "dopri5", curve.sigma(torch.tensor([0.9, 0.05]).double()), path=path, rtol=1e-11, atol=1e-12)
    errors = [(end(steps) - exact).norm() for steps in (64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    assert make(sampler, "sampler").order == order


@pytest.mark.parametrize("path", ["linear", "cosine", "vp"])
def test_the_adaptive_solver_keeps_its_tolerance_for_each_image(path):
    known, curve = MixtureDenoiser().double(), make_path(path)
    sigmas = curve.sigma(torch.tensor([0.99, 0.0]).double())
    exact = solve(known, "edm", levels(4000, float(make_path("linear").time(sigmas[0]))))
    found = solve(known, "dopri5", sigmas, path=path, rtol=1e-5, atol=1e-6)
    assert (found - exact).abs().max() < 2e-4
    # An image does not depend on the others of its batch.
    alone = [solve(Only(known, i), "dopri5", sigmas, count=3, path=path, rtol=1e-5)[i] for i in range(3)]
    assert torch.allclose(torch.stack(alone), solve(known, "dopri5", sigmas, count=3, path=path, rtol=1e-5), atol=1e-12)
    assert make("dopri5", "sampler").evaluations(18) is None


class Only(DenoiserWrapper):
    """Replaces all images of a batch but one by another problem."""

    def __init__(self, denoiser, kept):
        super().__init__(denoiser)
        self.kept = kept

    def forward(self, x, sigma, cond=None):
        out = self.denoiser(x, sigma, cond).x0
        others = torch.arange(len(x)) != self.kept
        return Prediction(torch.where(others[:, None, None, None], 5.0 + 0 * out, out))


@pytest.mark.parametrize("diffusion", ["constant", "sigma", "linear", "decreasing", "increasing_decreasing", "sbdm"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_sde_has_the_right_mean_and_covariance(diffusion, solver):
    torch.manual_seed(0)
    known, count = GaussianDenoiser(mean=0.3, std=0.5, shape=(1, 1, 2)).double(), 40_000
    steps = 300 if diffusion == "decreasing" else 120  # of weak order 1, and with the most noise
    sigmas = torch.cat([levels(steps, 0.98, 0.01), torch.zeros(1, dtype=torch.float64)])
    x = solve(known, "flow_sde", sigmas, count=count, diffusion=diffusion, solver=solver, last_step="tweedie")
    x = x.reshape(count, 2)
    assert x.mean(0).tolist() == pytest.approx([0.3, 0.3], abs=0.02)
    covariance = torch.cov(x.T)
    assert covariance.diag().tolist() == pytest.approx([0.25, 0.25], rel=0.06)
    assert abs(float(covariance[0, 1])) < 0.01


@pytest.mark.parametrize("sampler", ["flow_euler", "flow_heun", "flow_sde", "dopri5"])
def test_declared_evaluations_are_made(sampler):
    known, calls = MixtureDenoiser().double(), []
    known.register_forward_hook(lambda *_: calls.append(1))
    made = make(sampler, "sampler")
    made(BoundDenoiser(known), torch.randn(2, 1, 1, 2) * 50, levels(7, 0.98), torch.randn_like)
    assert made.evaluations(7) == (None if sampler == "dopri5" else len(calls))


def test_pure_noise_is_what_the_network_sees():
    """A flow model starts from unit noise at t = 1 exactly; samplers in sigma space at its largest finite level."""
    seen = []

    class Watching(nn.Module):
        def forward(self, x, c_noise, cond):
            seen.append((x.clone(), c_noise.clone()))
            return torch.zeros_like(x)

    flow = FlowPrecond(Watching(), NetSpec((2, 2), 3))
    schedule = make({"name": "flow", "num_steps": 4}, "schedule")
    assert schedule(flow)[0] == PURE_NOISE and len(schedule(flow)) == 5
    for name in ("flow_euler", "flow_heun", "dopri5", "flow_sde"):
        seen.clear()
        make_images = sampling(flow, RGB(), "cpu", sampler=make(name, "sampler"), schedule=schedule)
        make_images([(0, None), (1, None)])
        x, c_noise = seen[0]
        expected = torch.stack([torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(s)) for s in (0, 1)])
        assert (c_noise == 1).all() and torch.allclose(x, expected, rtol=1e-6, atol=1e-6), name
    for name in ("edm", "dpmpp2m", "ddim"):
        seen.clear()
        sampling(flow, RGB(), "cpu", sampler=make(name, "sampler"), schedule=schedule)([(0, None)])
        assert float(seen[0][1]) == pytest.approx(0.999), name


def test_models_of_edm_sample_on_the_grid_of_flow_and_the_other_way_round():
    """A converged solver of either kind gives the same images, with guidance in an interval, too."""
    known = MixtureDenoiser(labelled=True).double()
    form = FlowForm(known, path="linear")
    assert levels_of_times([0.1, 0.7], form) == pytest.approx((1 / 9, 7 / 3))
    ends = []
    for denoiser in (known, form):
        guided = make({"name": "cfg", "scale": 2.0, "interval": [1 / 9, 7 / 3]}, "guidance", denoiser=denoiser)
        labels = torch.tensor([[1.0, 0.0]]).expand(32, -1).double()
        bound = BoundDenoiser(guided, {"labels": labels})
        for sampler in ("flow_heun", "edm", "dpmpp2m", "flow_euler"):
            steps = 4000 if sampler == "flow_euler" else 800
            schedule = make({"name": "flow", "num_steps": steps, "sigma_max": 60.0}, "schedule")
            sigmas = schedule(bound)
            x = torch.randn(32, 1, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * sigmas[0]
            ends.append(make(sampler, "sampler")(bound, x, sigmas, torch.randn_like))
    assert all(torch.allclose(one, ends[0], atol=2e-2) for one in ends[1:])
    assert torch.allclose(ends[0], ends[4], atol=1e-6) and torch.allclose(ends[1], ends[5], atol=1e-6)


def test_the_weights_of_errors_agree_for_all_predictions():
    """The loss of a quantity is the same whatever the network predicts, and equals that quantity's squared error."""
    known, torch_seed = MixtureDenoiser().double(), 3
    batch = Batch(torch.randn(6, 1, 1, 2).double())
    sigma = torch.tensor([0.05, 0.3, 1.0, 2.0, 7.0, 30.0]).double().reshape(-1, 1, 1, 1)
    for path in ALL_PATHS:
        curve = make_path(path)
        t = curve.time(sigma)
        a, b, w = curve.a(t), curve.b(t), curve.wronskian(t)
        for error in ERRORS:
            found = []
            for prediction in PREDICTIONS:
                torch.manual_seed(torch_seed)
                noise = torch.randn_like(batch.images)
                one = FlowForm(known, path=path, prediction=prediction)
                found.append(FlowMatching(UniformTime(), error=error).evaluate(one, batch, sigma, noise).error)
            assert all(torch.allclose(other, found[0], rtol=1e-6) for other in found[1:])
            x0 = known(batch.images + sigma * noise, sigma).x0
            of = {"x": 1, "epsilon": a / b, "v": w / b, "score": a / b**2, "likelihood": (a * w / b**3).sqrt()}[error]
            assert torch.allclose(found[0], (of * (x0 - batch.images)) ** 2, rtol=1e-6)


def test_times_are_drawn_as_they_say():
    torch.manual_seed(0)
    flow, count = FlowPrecond(nn.Identity(), SPEC), 200_000
    uniform = flow.process.time(UniformTime().sample(count, flow, "cpu"))
    assert uniform.shape == (count, 1, 1, 1) and float(uniform.mean()) == pytest.approx(0.5, abs=0.005)
    log = LogitNormalTime(0.8, 0.7).sample(count, flow, "cpu").log()
    assert float(log.mean()) == pytest.approx(0.8, abs=0.01) and float(log.std()) == pytest.approx(0.7, abs=0.01)
    moved = LogitNormalTime(0.8, 0.7, shift=3.0).sample(count, flow, "cpu").log()
    assert float(moved.mean()) == pytest.approx(0.8 + math.log(3), abs=0.01)
    scaled = LogitNormalTime(0.8, 0.7).sample(count, FlowPrecond(nn.Identity(), SPEC, noise_scale=2.0), "cpu").log()
    assert float(scaled.mean()) == pytest.approx(0.8 + math.log(2), abs=0.01)
    draws = UniformTime().sample(count, GaussianDenoiser(), "cpu")  # EDM's models have the linear path
    assert float((draws / (1 + draws)).mean()) == pytest.approx(0.5, abs=0.005) and bool(torch.isfinite(draws).all())


@pytest.mark.parametrize(
    "what, message",
    [
        (lambda: FlowPrecond(nn.Identity(), SPEC, path="bent"), "path='bent'"),
        (lambda: FlowPrecond(nn.Identity(), SPEC, prediction="y"), "prediction='y'"),
        (lambda: FlowPrecond(nn.Identity(), SPEC, time="both"), "time='both'"),
        (lambda: FlowPrecond(nn.Identity(), SPEC, noise_scale=0.0), "noise_scale=0"),
        (lambda: make({"name": "flow", "shift": 0.0}, "schedule"), "shift=0"),
        (lambda: make({"name": "flow", "t_min": 0.5, "t_max": 0.4}, "schedule"), "t_min=0.5"),
        (lambda: make({"name": "flow_sde", "diffusion": "brown"}, "sampler"), "diffusion='brown'"),
        (lambda: make({"name": "dopri5", "rtol": 0.0}, "sampler"), "rtol=0"),
        (lambda: FlowMatching(UniformTime(), error="y"), "error='y'"),
        (lambda: FlowMatching(UniformTime(), clamp=1.0), "clamp=1"),
        (lambda: UniformTime(0.5, 0.5), "low=0.5"),
        (lambda: levels_of_times([0.2, 1.2], GaussianDenoiser()), "guidance_interval_t"),
        (lambda: make_path("polynomial0.5"), "power=0.5"),
        (lambda: solve(MixtureDenoiser(), "flow_sde", levels(3, 1.0), diffusion="sbdm"), "infinite"),
    ],
)
def test_bad_options_name_themselves(what, message):
    with pytest.raises(UserError, match=message):
        what()


def test_guidance_of_some_channels():
    known = MixtureDenoiser(shape=(4, 1, 1), labelled=True)
    x, sigma, labels = torch.randn(2, 4, 1, 1), torch.tensor(1.0), torch.tensor([[0.0, 1.0]] * 2)
    three = make({"name": "cfg", "scale": 3.0, "channels": 3}, "guidance", denoiser=known)
    every = make({"name": "cfg", "scale": 3.0}, "guidance", denoiser=known)
    found, all_of_them, plain = (one(x, sigma, {"labels": labels}).x0 for one in (three, every, known))
    assert torch.equal(found[:, :3], all_of_them[:, :3]) and torch.equal(found[:, 3:], plain[:, 3:])
    with pytest.raises(UserError, match="channels=5"):
        make({"name": "cfg", "scale": 3.0, "channels": 5}, "guidance", denoiser=known)
