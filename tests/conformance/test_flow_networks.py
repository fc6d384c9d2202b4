"""Whole denoisers: JiT's losses and samplers, REPA's samplers, with guidance in intervals, equal the recorded ones."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from elucid.training.config.presets.discrete import half_life
from elucid.training.guidance.base import levels_of_times
from elucid.training.losses.flow import FlowMatching
from elucid.training.losses.variational import HybridLoss
from elucid.training.noise.discrete import betas, betas_between, levels_of
from elucid.training.noise.distributions import DiscreteLevels
from elucid.training.noise.paths import make_path
from elucid.training.noise.respacing import respaced
from elucid.training.noise.times import LogitNormalTime
from elucid.training.preconds.ddpm import DDPMPrecond
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import make
from elucid.training.samplers.flow.base import Flow
from elucid.training.types import Batch, NetSpec
from tests import transformers, vectors
from tests.oracles import step_at


def filled(family, kwargs, case, shape, classes, **options):
    """A flow denoiser around the network of a case; REPA's projectors are no part of it."""
    network = transformers.network(family, kwargs)
    shapes = {name: list(one.shape) for name, one in network.named_parameters()}  # by the names of the recorded program
    vectors.fill(network, case["salt"], shapes)
    spec = NetSpec(shape[1:], shape[0], vector={"labels": classes})
    return FlowPrecond(network, spec, **options).eval()


def load(path):
    case, arrays = vectors.load(path)
    return case, {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def one_hot(classes, count):
    """One-hot labels; the class after the last is none."""
    return {"labels": F.one_hot(classes, count + 1)[:, :count].float()}


def jit(path, noise_scale=1.0):
    case, arrays = load(path)
    kwargs = case["base"]
    shape, classes = (3, kwargs["input_size"], kwargs["input_size"]), kwargs["num_classes"]
    options = {"prediction": "x", "time": "data", "noise_scale": noise_scale}
    return filled("jit", kwargs, case, shape, classes, **options), case, arrays


@pytest.mark.parametrize("path", vectors.cases("transformers/jit/losses"), ids=lambda path: path.stem)
def test_losses_of_jit(path):
    """x-prediction with the clamped loss of velocities, labels dropped, another scale of noise."""
    for run in vectors.load(path)[0]["cases"]:
        given = {**vectors.load(path)[0]["defaults"], **run["over"]}
        scale = given["noise_scale"]
        denoiser, _, arrays = jit(path, scale)
        draws = [arrays[name] for name in arrays if name.startswith(f"{run['case']}:draw")]
        labels = arrays["labels"]
        if run["mode"] == "train":
            dropped = draws.pop(0) < given["label_drop_prob"]
            labels = torch.where(dropped, denoiser.spec.label_dim, labels)
        z, noise = draws
        t = 1 - (given["P_mean"] + given["P_std"] * z).sigmoid()
        sigma = denoiser.process.sigma(t.double()).float().reshape(-1, 1, 1, 1)
        loss = FlowMatching(LogitNormalTime(), clamp=given["t_eps"])
        batch = Batch(arrays["images"], one_hot(labels, denoiser.spec.label_dim))
        mean = loss.evaluate(denoiser, batch, sigma, noise).error.mean()
        assert vectors.relative_error(mean, arrays[f"{run['case']}:loss"]) < 1e-5
        mean.backward()
        norms = {name: float(one.grad.norm()) for name, one in denoiser.model.named_parameters()}
        assert {name: norms[name] for name in run["grad_norms"]} == pytest.approx(run["grad_norms"], rel=1e-4)


def bound(denoiser, labels, scale, ends):
    """The denoiser with labels, and guidance in an interval of times."""
    guided = denoiser
    if scale != 1:
        interval = list(levels_of_times(ends, denoiser))
        guided = make({"name": "cfg", "scale": scale, "interval": interval}, "guidance", denoiser=denoiser)
    return BoundDenoiser(guided, one_hot(labels, denoiser.spec.label_dim))


def jit_runs():
    return [
        pytest.param(path, name, id=name)
        for path in vectors.cases("transformers/jit/samplers")
        for name in vectors.load(path)[0]["runs"]
    ]


@pytest.mark.parametrize(("path", "name"), jit_runs())
@torch.no_grad()
def test_samplers_of_jit(path, name):
    """Its guidance is on where low < t < high of its t, which is 1 - ours, and its clamp holds at sampling, too."""
    solver, scale, low, high, noise_scale = name.split(":")
    denoiser, case, arrays = jit(path, float(noise_scale))
    one = bound(
        denoiser,
        torch.tensor(case["labels"]),
        float(scale),
        (1 - float(high), 1 - float(low) - (1e-4 if float(low) else 0)),
    )
    sigmas = make({"name": "flow", "num_steps": case["steps"]}, "schedule")(one)
    sampler = make({"name": f"flow_{solver}", "clamp": 0.05}, "sampler")
    assert (
        vectors.relative_error(sampler(one, arrays["latent_draw"].double() * sigmas[0], sigmas, None), arrays[name])
        < 1e-5
    )


def repa_runs():
    return [
        pytest.param(path, name, id=name)
        for path in vectors.cases("transformers/repa/samplers")
        for name in vectors.load(path)[0]["runs"]
    ]


@pytest.mark.parametrize(("path", "name"), repa_runs())
@torch.no_grad()
def test_samplers_of_repa(path, name):
    kind, how, scale, low, high = name.split(":")
    case, arrays = load(path)
    denoiser = filled(
        "repa", case["kwargs"], case, arrays["init"].shape[1:], 1000, path="linear" if kind == "ode" else how
    )
    one = bound(denoiser, arrays["y"], float(scale), (max(float(low) - 1e-4, 0), float(high)))
    draws = iter([arrays[f"sde_noise{step}"] for step in range(4)])
    if kind == "ode":
        sampler, grid = make({"name": f"flow_{how}"}, "sampler"), {}
    else:
        sampler = make({"name": "flow_sde", "diffusion": "linear", "last_step": "mean"}, "sampler")
        grid = {"t_min": 0.04}
    sigmas = make({"name": "flow", "num_steps": 5, **grid}, "schedule")(one)
    x = arrays["init"].double()
    if how == "heun":  # whose program asks for the interval at the start of a step only
        on = [float(low) <= t <= float(high) for t in (1, 0.8, 0.6, 0.4, 0.2)]
        out = heun_of_repa(denoiser, bound(denoiser, arrays["y"], float(scale), (0, 1)), x, on, arrays["y"])
    else:
        out = sampler(one, x * sigmas[0], sigmas, lambda x: next(draws))
    assert vectors.relative_error(out, arrays[name]) < 1e-5
    if how == "heun" and all(on):
        assert vectors.relative_error(sampler(one, x * sigmas[0], sigmas, None), arrays[name]) < 1e-5


def heun_of_repa(denoiser, guided, x, on, labels):
    """Heun's method, each step with or without guidance as a whole."""
    flow = make("flow_heun", "sampler")
    plain = bound(denoiser, labels, 1.0, (0, 1))
    for index, inside in enumerate(on):
        t = torch.tensor([1 - 0.2 * index, max(0.8 - 0.2 * index, 0)], dtype=torch.float64)
        sigmas = denoiser.process.sigma(t.where(t > 1e-9, 0))
        x = flow(guided if inside else plain, x * sigmas[0] / t[0], sigmas, None) * denoiser.process.a(t[1])
    return x


@pytest.mark.parametrize("path", vectors.cases("transformers/jit/samplers"), ids=lambda path: path.stem)
@torch.no_grad()
def test_draws_and_guided_velocities_of_jit(path):
    """t = sigmoid(N(-0.8, 0.8)) of its t; velocities at pure noise, half way, and close to the data, clamped."""
    denoiser, _, arrays = jit(path)
    assert vectors.relative_error(1 - (0.8 - 0.8 * arrays["z"]).sigmoid(), arrays["t"]) < 1e-6
    t = 1 - arrays["state_t"].double()
    labels = torch.arange(len(t))
    one = bound(denoiser, labels, 2.9, (0, 0.9 - 1e-4))
    for index in range(len(t)):
        alone = BoundDenoiser(one.denoiser, {name: value[index : index + 1] for name, value in one.cond.items()})
        x = arrays["state"][index : index + 1].double()
        flow = Flow(alone, denoiser.process, x, denoiser.process.sigma(t[index].reshape(1)), 0.05, None)
        ours = -flow.velocity(x, t[index], flow.x0(x, t[index]))
        assert vectors.relative_error(ours, arrays["state_velocity"][index : index + 1]) < 1e-5, index


@pytest.mark.parametrize("path", vectors.cases("transformers/repa/samplers"), ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_scores_of_repa(path, name):
    """The score of a velocity, by way of D."""
    _, arrays = load(path)
    curve, t = make_path(name), arrays["t"].double().reshape(-1, 1, 1, 1)
    x, v = arrays["x"].double(), arrays["v"].double()
    x0 = (curve.b_slope(t) * x - curve.b(t) * v) / curve.wronskian(t)
    flow = Flow(None, curve, x, curve.sigma(t[:, 0, 0, 0])[None], 0.0, None)
    assert vectors.relative_error(flow.score(x, t, x0), arrays[f"score:{name}"]) < 1e-5


@pytest.mark.parametrize("path", vectors.cases("transformers/dit/diffusion"), ids=lambda path: path.stem)
def test_diffusion_of_dit(path):
    """Betas, steps of 250 and of DDIM with 50, and the loss: of the noise, and the bound, which trains the variance."""
    _, arrays = load(path)
    for respacing in ("", "250", "ddim50"):
        levels = levels_of(betas("linear", 1000))
        steps = torch.tensor(sorted(respaced(respacing, 1000))) if respacing else torch.arange(1000)
        assert torch.equal(steps, arrays[f"timesteps:{respacing}"])
        kept = torch.cat([levels.flip(0)[1:][steps].flip(0), levels.new_zeros(1)])
        assert torch.allclose(betas_between(kept).flip(0), arrays[f"betas:{respacing}"], rtol=1e-9)

    class Given(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            assert torch.equal(c_noise.long(), arrays["t"]) and vectors.relative_error(x, arrays["x_t"]) < 1e-5
            return arrays["model_out"]

    denoiser = make_of(Given())
    sigma = denoiser.levels.flip(0)[arrays["t"]].float().reshape(-1, 1, 1, 1)
    loss = HybridLoss(DiscreteLevels())
    one = loss.evaluate(denoiser, Batch(arrays["x0"]), sigma, arrays["eps"])
    loss.evaluate = lambda *_: one
    out = loss(denoiser, Batch(arrays["x0"]), step_at())
    for name, recorded in (("mse", "loss:mse"), ("vb", "loss:vb"), ("loss", "loss:loss")):
        assert vectors.relative_error(out.terms[name], arrays[recorded]) < 1e-5, name


def make_of(network):
    return DDPMPrecond(network, NetSpec((8, 8), 4, 8))


@pytest.mark.parametrize("path", vectors.cases("transformers/jit/samplers"), ids=lambda path: path.stem)
@pytest.mark.parametrize(("name", "decay"), [("ema1", 0.9999), ("ema2", 0.9996)])
def test_averages_of_jit(path, name, decay):
    """One update of both averages, started at half the weights, by half-lives in images as presets give them."""
    _, arrays = load(path)
    batch, model = 1024, torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    halflife = half_life(batch, decay)
    model.weight.fill_(0.5)
    ema = make({"name": "halflife", "halflife_mimg": [halflife], "rampup_ratio": None}, "ema", denoiser=model)
    model.weight.fill_(1.0)
    ema.update(model, step_at(nimg=batch, total_nimg=10 * batch, batch_size=batch))
    (average,) = ema.averages.values()
    assert float(average.weight) == pytest.approx(float(arrays[f"{name}_over_p"]), rel=1e-5)
