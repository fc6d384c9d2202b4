"""Methods for inverse problems: each is its paper's equation; what they pass on, refuse and cost; whole samples."""

import numpy as np
import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.rgb import RGB
from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.guidance.inverse.dps import DPS
from elucid.training.inverse.noise import GaussianNoise, PoissonNoise
from elucid.training.inverse.operators.blur import Blur
from elucid.training.inverse.operators.identity import Identity
from elucid.training.inverse.operators.superres import SuperResolution
from elucid.training.inverse.problem import InverseProblem
from elucid.training.noise.discrete import betas, levels_of
from elucid.training.noise.schedules import Karras
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import make
from elucid.training.registry.names import POSTERIORS
from elucid.training.samplers.base import levels_for
from elucid.training.samplers.ddpm import DDPMSampler
from elucid.training.samplers.edm import EDMSampler
from elucid.training.sampling.generate import generate
from elucid.training.sampling.inverse.posterior import described, posterior_denoiser
from elucid.training.snapshots.snapshot import load_snapshot
from elucid.training.types import NetSpec
from tests.oracles import GaussianDenoiser, MixtureDenoiser
from tests.snapshots import save_random_snapshot

AFFINE = (torch.tensor([127.5]), torch.tensor([127.5]))
MIXTURE = MixtureDenoiser(shape=(1, 4, 4))
SIGMA = torch.tensor([0.1, 0.7, 5.0], dtype=torch.float64)
X = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def problem(operator=None, noise=None, shape=(1, 4, 4)):
    measured = operator or SuperResolution(2)
    y = measured(torch.linspace(40, 220, 16, dtype=torch.float64).reshape(1, 1, 4, 4).expand(1, *shape))
    return InverseProblem(measured, AFFINE, shape, noise or GaussianNoise(6.0), y)


def dense(one):
    """The matrix of what a problem measures of normalised images, and y - A offset."""
    units = torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)
    seen = one.observe(None, units)
    return one.measure(units).flatten(1).T, seen.value.flatten(), seen.variance.flatten()


def jacobian(x, sigma):
    return torch.autograd.functional.jacobian(lambda x: MIXTURE(x, sigma).x0, x).reshape(16, 16)


@pytest.mark.parametrize("operator", [SuperResolution(2), Blur(0.8, "zero")])
def test_each_method_is_its_equation(operator):
    """With matrices, for a denoiser that is not linear, in units of gray levels."""
    one = problem(operator)
    A, y, variance = dense(one)
    eye = torch.eye(len(y), dtype=torch.float64)
    for x, sigma in zip(X, SIGMA, strict=True):
        x, D, J = x[None], MIXTURE(x[None], sigma).x0.flatten(), jacobian(x[None], sigma)
        missing, doubt = y - A @ D, variance * eye
        r2, gamma = sigma**2 * 0.09 / (sigma**2 + 0.09), sigma**2 / 2.0
        expected = {
            "pigdm": sigma**2 * J.T @ A.T @ torch.linalg.solve(r2 * A @ A.T + doubt, missing),
            "diffpir": torch.linalg.solve(A.T @ A / variance + torch.eye(16) / gamma, A.T @ missing / variance),
            "tmpd": sigma**2 * J @ A.T @ torch.linalg.solve(sigma**2 * A @ J @ A.T + doubt, missing),
            "replacement": A.T @ torch.linalg.solve(A @ A.T + doubt, missing),
        }
        options = {"pigdm": {"data_std": 0.3}, "diffpir": {"weight": 2.0}}
        for name, change in expected.items():
            given = {"name": name, **options.get(name, {}), "tolerance": 1e-10, "iterations": 32}
            x0 = make(given, "posterior", denoiser=MIXTURE, problem=one)(x, sigma).x0
            assert torch.allclose(x0.flatten(), D + change, atol=1e-6), (name, float(sigma))
        gradient = make({"name": "dps", "scale": "likelihood"}, "posterior", denoiser=MIXTURE, problem=one)
        likely = sigma**2 * J.T @ A.T @ (missing / variance)
        assert torch.allclose(gradient(x, sigma).x0.flatten(), D + likely, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1000, 50])
def test_a_step_of_ddpm_is_moved_as_published(steps):
    """By -(step / |y - A x0|) times the gradient of |y - A x0|^2, in DDPM's units, for the whole chain of levels."""
    values = betas("linear", 1000)
    levels = torch.cat([levels_of(values)[:: 1000 // steps], torch.zeros(1, dtype=torch.float64)])
    one = problem(Identity())
    guided = DPS(GaussianDenoiser(), one, step=0.6, steps=steps)
    for index in (1, len(levels) // 2, len(levels) - 4):
        x = (X * levels[index]).requires_grad_()
        pair = levels[index : index + 2]
        with torch.no_grad():
            moved = DDPMSampler()(BoundDenoiser(guided), x, pair, torch.zeros_like)
            plain = DDPMSampler()(BoundDenoiser(GaussianDenoiser()), x, pair, torch.zeros_like)
        here, there = (1 + pair**2).sqrt().tolist()
        in_units = (x.detach() / here).requires_grad_()
        unit = (one.observe(None, x).value - one.measure(GaussianDenoiser()(in_units * here, pair[0]).x0)) / 127.5
        squares = unit.flatten(1).square().sum(1)
        gradient = torch.autograd.grad(squares.sum(), in_units)[0]
        shift = -0.6 * gradient / squares.sqrt().reshape(-1, 1, 1, 1)
        assert torch.allclose((moved - plain) / there, shift, rtol=1e-6)


def test_dps_weighs_counts_by_their_variance():
    """As with one variance, y / deviation; its mean weight is 1, so that the step keeps its size."""
    one = problem(noise=PoissonNoise(0.1))
    x, seen = X[:1], one.observe(None, X[:1])
    x0 = MIXTURE(x, 1.0).x0
    weights = 1 / seen.variance / (1 / seen.variance).mean()
    missing = seen.value - one.measure(x0)
    leaf = x.clone().requires_grad_()
    norm = (weights * (seen.value - one.measure(MIXTURE(leaf, 1.0).x0)) ** 2).sum().sqrt() / 127.5
    gradient = torch.autograd.grad(norm**2, leaf)[0]
    beta = DPS(MIXTURE, one).beta(torch.ones(1, 1, 1, 1, dtype=torch.float64))
    expected = x0 - (1 - beta).sqrt() / beta * gradient / norm.detach()
    assert torch.allclose(DPS(MIXTURE, one)(x, 1.0).x0, expected) and missing.abs().max() > 1


@pytest.mark.parametrize("name", POSTERIORS)
def test_every_method_passes_on_everything_else(name):
    """Conditions but for the measurement, other outputs, guidance inside, gradients outside; and x is left alone."""
    seen = []

    class Watched(MixtureDenoiser):
        def forward(self, x, sigma, cond=None):
            seen.append(cond)
            out = super().forward(x, sigma, cond)
            out.logvar = x.new_ones(len(x))
            return out

    prior = Watched(shape=(1, 4, 4), labelled=True)
    cond = {"labels": torch.eye(2)[[0, 1, 0]], "measurement": problem().measurement.expand(3, -1, -1, -1)}
    one = problem()
    given = make(name, "posterior", denoiser=prior, problem=InverseProblem(one.operator, AFFINE, (1, 4, 4), one.noise))
    x = X.clone()
    with torch.no_grad():
        out = given(x, SIGMA, cond)
    assert set(seen[-1]) == {"labels"} and "measurement" in cond
    assert out.logvar.shape == (3,) and not out.x0.requires_grad and not out.logvar.requires_grad
    assert torch.equal(x, X) and not x.requires_grad and out.x0.dtype == torch.float64
    each = [given(x[i : i + 1], SIGMA[i : i + 1], {k: v[i : i + 1] for k, v in cond.items()}).x0 for i in range(3)]
    assert torch.allclose(torch.cat(each), out.x0, atol=1e-9)
    around = make(name, "posterior", denoiser=ClassifierFreeGuidance(prior, 2.0), problem=given.problem)(x, SIGMA, cond)
    assert around.x0.isfinite().all() and not torch.allclose(around.x0, out.x0)
    assert given.spec == prior.spec and not given.starts_from_noise


class Single(Blur):
    """Computes in float32, whatever it is given."""

    def _filtered(self, images, adjoint):
        return super()._filtered(images.float(), adjoint)


@pytest.mark.parametrize("name", POSTERIORS)
def test_an_operator_may_compute_in_float32(name):
    ours, exact = (problem(kind(1.0)) for kind in (Single, Blur))
    found = [make(name, "posterior", denoiser=MIXTURE, problem=one)(X, SIGMA).x0 for one in (ours, exact)]
    assert found[0].dtype == torch.float64 and torch.allclose(*found, atol=1e-3)


def test_a_method_without_derivatives_costs_no_backward_pass():
    for name, differentiated in (("replacement", False), ("diffpir", False), ("tmpd", True), ("pigdm", True)):
        wanted = []

        class Watched(MixtureDenoiser):
            def forward(self, x, sigma, cond=None, wanted=wanted):
                wanted.append(torch.is_grad_enabled() and x.requires_grad)
                return super().forward(x, sigma, cond)

        with torch.no_grad():
            make(name, "posterior", denoiser=Watched(shape=(1, 4, 4)), problem=problem())(X, SIGMA)
        assert wanted == [differentiated]


def test_replaced_pixels_end_at_the_measurement():
    """The sampler carries what is known along y + sigma n, with its own noise: known pixels end at y for each seed."""
    one = problem(Identity(), GaussianNoise(0.0))
    known = make("replacement", "posterior", denoiser=MIXTURE, problem=one)
    path = []
    for sampler in (EDMSampler(), EDMSampler(S_churn=10.0)):
        torch.manual_seed(0)
        x = torch.randn(2, 1, 4, 4, dtype=torch.float64) * 80
        sigmas = Karras(12)(known)
        with torch.no_grad():
            end = sampler(BoundDenoiser(known), x, sigmas, torch.randn_like, lambda x, s, x0: path.append((x, s)))
        assert torch.allclose(127.5 * end + 127.5, one.measurement.expand_as(end), atol=1e-9)
    clean = (one.measurement - 127.5) / 127.5
    noise = torch.stack([(x - clean) / s for x, s in path[:12]])
    assert torch.allclose(noise[1:], noise[:1].expand_as(noise[1:]), atol=1e-6)  # one n for the whole path


def test_a_flow_model_samples_from_its_largest_level():
    """Not from pure noise, at which the change is infinity times 0."""
    prior = FlowPrecond(torch.nn.Conv2d(1, 1, 1), NetSpec((4, 4), 1)).eval()
    prior.model.forward = lambda x, c_noise, cond: 0.3 * x
    wrapped = make("tmpd", "posterior", denoiser=prior, problem=problem())
    assert prior.starts_from_noise
    for sampler, schedule in ((make("flow_euler", "sampler"), make("flow", "schedule")), (EDMSampler(), Karras())):
        sigmas = levels_for(sampler, schedule, wrapped, 6)
        with torch.no_grad():
            end = sampler(BoundDenoiser(wrapped), X * sigmas[0], sigmas, torch.randn_like)
        assert float(sigmas[0]) <= prior.sigma_max and end.isfinite().all()


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return load_snapshot(save_random_snapshot(tmp_path_factory.mktemp("model") / "model.pkl", classes=3))


@pytest.mark.parametrize("method", ["tmpd", "pigdm", "dps,steps=4", "diffpir", "replacement"])
def test_a_network_samples_given_a_picture(snapshot, method, tmp_path):
    """From texts and files: a seed is an image, and the measurement is met better than without."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6] = 1
    np.save(tmp_path / "mask.npy", mask)
    y = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.float32)
    y[:, mask == 0] = np.nan
    np.save(tmp_path / "y.npy", y)
    affine = (torch.full((3,), 127.5), torch.full((3,), 127.5))
    wrapped = posterior_denoiser(
        snapshot.ema, affine, f"inpaint:{tmp_path}/mask.npy", f"{tmp_path}/y.npy", "gaussian:5", method
    )
    parts = {"schedule": Karras(4), "classes": 1, "sampler": EDMSampler(S_churn=2.0)}
    images = [next(iter(generate(wrapped, RGB(), [seed], **parts))).images for seed in (3, 4)]
    together = next(iter(generate(wrapped, RGB(), [3, 4], **parts))).images
    assert torch.equal(together, torch.cat(images)) and not torch.equal(images[0], images[1])
    plain = next(iter(generate(snapshot.ema, RGB(), [3, 4], **parts))).images
    known = torch.from_numpy(mask == 1)

    def error(images):
        return float((images.float() - torch.from_numpy(y))[:, :, known].square().mean())

    assert error(together) < 0.9 * error(plain)
    told = described(wrapped)
    assert told["operator"]["sha256"] and told["noise"]["std"] == 5 and len(told["measurement"]) == 64
    assert told["posterior"]["name"] == method.partition(",")[0]


def test_texts_of_options_are_read_and_wrong_ones_refused(tmp_path, snapshot):
    affine = (torch.full((3,), 127.5), torch.full((3,), 127.5))
    (tmp_path / "mine_half.py").write_text(
        "class Half:\n    def __init__(self, factor: float = 0.5):\n        self.factor = factor\n"
        "    def __call__(self, images):\n        return self.factor * images\n"
        "    def adjoint(self, y):\n        return self.factor * y\n"
    )

    def made(operator="superres:2", noise="gaussian:1", method="tmpd", measurement=None, prior=snapshot.ema):
        return posterior_denoiser(prior, affine, operator, measurement, noise, method)

    assert made("superres:[2,4]").problem.operator.factors == [2, 4]
    blur = made("blur:1.5,boundary=zero").problem.operator
    assert (blur.std, blur.zero) == (1.5, True)
    assert made(f"{tmp_path}/mine_half.py:Half,factor=2").problem.operator.factor == 2
    assert made({"name": "superres", "factor": 4}).problem.operator.factors == [4, 4]
    assert made(Identity()).problem.measured_shape == (3, 8, 8)
    assert made(noise="3").problem.noise.std == made(noise=3.0).problem.noise.std == 3
    assert made(noise="poisson:0.2").problem.noise.gain == 0.2
    assert (made(method="diffpir:7").weight, made(method="tmpd,iterations=3").iterations) == (7, 3)
    for text, steps in (("dps", 18), ("dps,steps=50", 50), ("tmpd", None)):  # the sampler's number, unless it is given
        wrapped = posterior_denoiser(snapshot.ema, affine, "superres:2", posterior=text, steps=18)
        assert getattr(wrapped, "steps", None) == steps
    for wrong, word in (
        ({"operator": "supperres:2"}, "supperres"),
        ({"operator": "superres"}, "factor"),
        ({"operator": "superres:two"}, "factor"),
        ({"operator": "superres:3"}, "factor"),
        ({"operator": "identity:2"}, "identity"),
        ({"operator": "blur:1,sigma=2"}, "sigma"),
        ({"operator": "blur:1,kernel=2"}, "kernel"),
        ({"operator": f"{tmp_path}/mine_half.py:Whole"}, "Whole"),
        ({"noise": "gaussian"}, "measurement_noise"),
        ({"noise": "gauss:3"}, "measurement_noise"),
        ({"noise": "poisson:much"}, "measurement_noise"),
        ({"noise": "gaussian:nan"}, "measurement_noise"),
        ({"method": "dsp"}, "dps"),
        ({"method": "dps,scale=none"}, "scale"),
        ({"method": "dps:0"}, "step"),
        ({"method": "tmpd,tolerance=2"}, "tolerance"),
        ({"method": "tmpd,iterations=0"}, "iterations"),
        ({"method": "diffpir:-1"}, "weight"),
        ({"measurement": f"{tmp_path}/none.npy"}, "none.npy"),
        ({"measurement": torch.zeros(3, 8, 8)}, "measurement"),
    ):
        with pytest.raises(UserError, match=word):
            made(**wrong)
    with pytest.raises(UserError, match="`operator`"):
        make("tmpd", "posterior", denoiser=snapshot.ema, problem=problem())
    with pytest.raises(UserError, match="likelihood"):
        make(
            {"name": "dps", "scale": "likelihood"},
            "posterior",
            denoiser=MIXTURE,
            problem=problem(noise=GaussianNoise()),
        )(X, SIGMA)
