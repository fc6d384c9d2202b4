"""Flow matching at its ends: finite starts where they must be, slightly wrong networks, levels of other parts."""

import math

import pytest
import torch
from torch import nn

from elucid.api.evaluations.toy import sampled
from elucid.dnnlib.errors import UserError
from elucid.training.guidance.base import Interval, levels_of_times
from elucid.training.guidance.classifier import ClassifierGuidance
from elucid.training.losses.by_level import loss_weights
from elucid.training.losses.flow import FlowMatching
from elucid.training.losses.uncertainty import UncertaintyLoss
from elucid.training.noise.paths import PURE_NOISE, make_path
from elucid.training.noise.times import UniformTime
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.preconds.flow import PREDICTIONS, FlowPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import make
from elucid.training.samplers.base import levels_for
from elucid.training.types import Batch, NetSpec, Prediction
from tests.oracles import GaussianDenoiser, MixtureClassifier, MixtureDenoiser, step_at

SPEC = NetSpec((1, 2), 1)


class Wrong(FlowPrecond):
    """A Gaussian's exact prediction, off by a factor: what a trained network is like."""

    def __init__(self, error=1e-3, **options):
        super().__init__(nn.Identity(), SPEC, **options)
        self.known, self.error = GaussianDenoiser(mean=0.0, std=0.5, shape=(1, 1, 2)), error

    def forward(self, x, sigma, cond=None):
        sigma = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1, 1, 1, 1)
        c = self.coefficients(sigma)
        out = (self.known(x.double(), sigma.double()).x0 - c.c_skip.double() * x) / c.c_out.double()
        return Prediction(c.c_skip.double() * x + c.c_out.double() * out * (1 + self.error))


def drawn(denoiser, sampler, schedule="flow", steps=25, count=2000, **options):
    torch.manual_seed(0)
    sampler, schedule = make({"name": sampler, **options}, "sampler"), make(schedule, "schedule")
    sigmas = levels_for(sampler, schedule, denoiser, steps)
    x = torch.randn(count, 1, 1, 2, dtype=torch.float64) * sigmas[0]
    return sampler(BoundDenoiser(denoiser), x, sigmas, torch.randn_like), sigmas


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", ["flow_heun", "flow_euler", "flow_sde", "dopri5", "edm", "dpmpp2m"])
@torch.no_grad()
def test_a_network_that_is_slightly_wrong_makes_samples_that_are_slightly_wrong(sampler, prediction):
    """Predicted noise counts sigma times in D, so those start at a finite level."""
    options = {"rtol": 1e-2} if sampler == "dopri5" else {}
    x, sigmas = drawn(Wrong(prediction=prediction), sampler, "karras" if sampler == "edm" else "flow", **options)
    from_noise = prediction in ("v", "x") and sampler != "dpmpp2m"
    assert float(sigmas[0]) == pytest.approx(80 if sampler == "edm" else PURE_NOISE if from_noise else 999)
    assert float(x.std()) == pytest.approx(0.5, abs=0.06)
    assert bool(x.isfinite().all()) and float(x.abs().max()) < 5


@pytest.mark.parametrize("sampler", ["edm", "dpmpp2m", "flow_heun", "flow_euler", "flow_sde"])
@torch.no_grad()
def test_models_without_a_largest_level_start_at_that_of_edm(sampler):
    x, sigmas = drawn(GaussianDenoiser(mean=0.0, std=0.5, shape=(1, 1, 2)), sampler, steps=50)
    assert float(sigmas[0]) == pytest.approx(80) and float(x.std()) == pytest.approx(0.5, abs=0.04)
    assert EDMPrecond(nn.Identity(), SPEC).sigma_max == math.inf


@torch.no_grad()
def test_the_laboratory_samples_a_flow_model_by_samplers_in_sigma():
    flow = Wrong(error=0.0)
    flow.spec = NetSpec((1, 1), 2)
    flow.known = GaussianDenoiser(mean=0.0, std=0.5, shape=(2, 1, 1))
    options = {"sampler": {"name": "edm"}, "schedule": {"name": "karras"}}
    points, _ = sampled(flow, options, {}, 2000, 30, 0)
    assert float(points.std()) == pytest.approx(0.5, abs=0.03)


def test_a_classifier_guides_a_flow_model_from_a_level_that_it_knows():
    mixture = MixtureDenoiser()
    flow = FlowPrecond(nn.Identity(), mixture.spec)
    guided = ClassifierGuidance(flow, MixtureClassifier(mixture), 1.0)
    assert flow.starts_from_noise and not guided.starts_from_noise
    assert guided.sigma_max == 80 and flow.sigma_max == pytest.approx(999)
    sigmas = levels_for(make("flow_heun", "sampler"), make("flow", "schedule"), guided)
    assert float(sigmas[0]) == pytest.approx(80)


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "linear_vp", "polynomial2", "polynomial1.5"])
def test_coefficients_are_finite_and_exact_in_float32(path):
    """From the smallest level to pure noise, as in float64 far from the ends."""
    flow, curve = FlowPrecond(nn.Identity(), SPEC, path=path, noise_scale=2.0), make_path(path, 2.0)
    sigma = torch.tensor([1e-6, 1e-4, 1e-2, 1.0, 50.0, 1e4, PURE_NOISE]).reshape(-1, 1, 1, 1)
    c, exact = flow.coefficients(sigma), flow.coefficients(sigma.double())
    for name, one, other in zip(c._fields, c, exact, strict=True):
        assert bool(one.isfinite().all()), name
        torch.testing.assert_close(one.double(), other, rtol=2e-3, atol=1e-6, msg=name)
    t = curve.time(sigma.double())[2:5]
    a, b, w = curve.a(t), curve.b(t), curve.wronskian(t)
    torch.testing.assert_close(exact.c_skip[2:5], a * curve.b_slope(t) / w)
    torch.testing.assert_close(exact.c_out[2:5], -b / w)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_times_of_training_keep_from_the_ends(prediction):
    torch.manual_seed(0)
    flow = FlowPrecond(nn.Identity(), SPEC, prediction=prediction)
    sigma = UniformTime().sample(200_000, flow, "cpu")
    edge = 1e-5 if prediction == "v" else 1e-3
    assert (
        float(flow.process.time(sigma).max()) <= 1 - edge + 1e-6 and float(flow.process.time(sigma).min()) >= 0.9 * edge
    )


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_held_out_losses_have_the_weight_of_the_training(prediction):
    flow, sigmas = FlowPrecond(nn.Identity(), SPEC, prediction=prediction), torch.tensor([0.05, 1.0, 50.0])
    loss = UncertaintyLoss(FlowMatching(UniformTime(), clamp=0.1))
    expected = loss.base.weight_at(flow, sigmas.reshape(-1, 1, 1, 1)).flatten()
    torch.testing.assert_close(loss_weights(flow, sigmas, loss).float(), expected)
    own = flow.coefficients(sigmas.reshape(-1, 1, 1, 1)).c_out ** -2
    torch.testing.assert_close(loss_weights(flow, sigmas).float(), own.flatten())


class Half(nn.Module):
    def forward(self, x, c_noise, cond):
        return x / 2


def test_uncertainty_of_a_mean_is_that_of_the_sum():
    """exp(u) is the mean loss per element at its optimum, whatever the base returns."""
    spec = NetSpec((4, 4), 2, logvar_features=8)
    flow, batch = FlowPrecond(Half(), spec, time_scale=1000.0), Batch(torch.randn(4, 2, 4, 4))
    out = {}
    for mean in (False, True):
        torch.manual_seed(0)
        out[mean] = UncertaintyLoss(FlowMatching(UniformTime(), mean=mean))(flow, batch, step_at())
    torch.testing.assert_close(out[True].loss * 32, out[False].loss)
    torch.testing.assert_close(out[True].terms["weighted"], out[False].terms["weighted"])
    assert torch.equal(flow.level(torch.tensor([500.0])), torch.tensor([0.5]))


@pytest.mark.parametrize("path", ["linear", "cosine", "linear_vp", "polynomial2", "vp"])
@pytest.mark.parametrize("noise_scale", [1.0, 4.0])
def test_ends_of_an_interval_do_not_hang_on_rounding(path, noise_scale):
    flow, curve = FlowPrecond(nn.Identity(), SPEC, path=path, noise_scale=noise_scale), make_path(path, noise_scale)
    grid = torch.linspace(0, 1, 11, dtype=torch.float64)[1:]
    again = curve.sigma(curve.time(curve.sigma(grid)))
    for index, t in enumerate(grid.tolist()):
        below = Interval(levels_of_times((0.0, t), flow)).contains(again)
        assert below.tolist() == [other <= index for other in range(10)], t
        if index < 9:
            above = Interval(levels_of_times((t, 1.0), flow)).contains(again)
            assert above.tolist() == [other > index for other in range(10)], t


def test_a_users_own_denoise_of_four_members_is_enough():
    class Mine:
        sigma_min, sigma_max = 0.002, 50.0

        def round_sigma(self, sigma):
            return sigma

        def __call__(self, x, sigma):
            return Prediction(GaussianDenoiser()(x, sigma).x0.detach())

    sigmas = levels_for(make("flow_heun", "sampler"), make("flow", "schedule"), Mine(), 4)
    assert float(sigmas[0]) == pytest.approx(50) and float(sigmas[-2]) > 0.002
    out = make("flow_heun", "sampler")(Mine(), torch.randn(2, 1, 4, 4) * 50, sigmas, torch.randn_like)
    assert bool(out.isfinite().all())


def test_the_grid_keeps_the_models_noise_scale_and_range():
    flow = FlowPrecond(nn.Identity(), SPEC, noise_scale=4.0)
    own, named = (make({"name": "flow", "num_steps": 5, "path": path}, "schedule")(flow) for path in (None, "linear"))
    assert torch.equal(own, named) and float(own[1]) == pytest.approx(16)
    shifted = make({"name": "flow", "num_steps": 5, "t_min": 0.04, "shift": 3.0}, "schedule")(Wrong())
    assert float(make_path("linear").time(shifted)[-2]) == pytest.approx(0.04)
    with pytest.raises(UserError, match="power=0.5"):
        make_path("polynomial0.5")


@pytest.mark.parametrize(
    ("sampler", "options"),
    [("flow_heun", {"last_euler": False})]
    + [
        ("flow_sde", {"solver": s, "last_step": e})
        for s in ("euler", "heun")
        for e in ("mean", "tweedie", "euler", "none")
    ],
)
@torch.no_grad()
def test_evaluations_of_all_last_steps(sampler, options):
    known, calls = GaussianDenoiser(shape=(1, 1, 2)), []
    known.register_forward_hook(lambda *_: calls.append(1))
    made = make({"name": sampler, **options}, "sampler")
    sigmas = levels_for(made, make("flow", "schedule"), known, 6)
    out = made(BoundDenoiser(known), torch.randn(2, 1, 1, 2).double() * 80, sigmas, torch.randn_like)
    assert made.evaluations(6) == len(calls) and bool(out.isfinite().all())
