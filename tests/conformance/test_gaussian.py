"""The discrete process equals the reference: schedules, respacing, one step of each sampler, every loss."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from elucid.training.guidance.clipping import clipped
from elucid.training.losses.variational import prior_bits
from elucid.training.noise.discrete import betas, betas_between, levels_of
from elucid.training.noise.gaussian_steps import GaussianSteps
from elucid.training.noise.respacing import respaced
from elucid.training.preconds.ddpm import DDPMPrecond
from elucid.training.registry.components import make
from elucid.training.samplers.ddim import DDIMSampler
from elucid.training.samplers.ddpm import DDPMSampler
from elucid.training.types import Batch, NetSpec, Prediction
from tests import vectors
from tests.oracles import step_at

CASES = [(path, vectors.load(path)) for path in vectors.cases("gaussian/*")]
SCHEDULES = [(path.stem, *content) for path, content in CASES if "respacings" in content[0]]
PROCESSES = [
    pytest.param(description, arrays, schedule, kind, id=f"{path.stem}-{schedule}-{kind}")
    for path, (description, arrays) in CASES
    if "timesteps" in description
    for schedule, kind in sorted({tuple(name.split(":")[:2]) for name in arrays if name.count(":") > 1})
]
VARIANCE = {"FIXED_SMALL": "small", "FIXED_LARGE": "large", "LEARNED_RANGE": "learned"}


@pytest.mark.parametrize("name, description, arrays", SCHEDULES)
def test_betas_and_respaced_steps(name, description, arrays):
    for key in (key for key in arrays if key.startswith("betas:")):
        _, schedule, steps = key.split(":")
        assert vectors.relative_error(betas(schedule, int(steps)), arrays[key]) < 1e-12
    for case in description["respacings"]:
        kept = respaced(case["sections"], case["steps"])
        assert kept == arrays[f"respaced:{case['key']}"].tolist()
        levels = levels_of(betas("linear", case["steps"])).flip(0)
        chosen = torch.cat([levels[[0]], levels[[one + 1 for one in kept]]]).flip(0)
        assert vectors.relative_error(betas_between(chosen).flip(0), arrays[f"respaced_betas:{case['key']}"]) < 1e-12


class Recorded(nn.Module):
    """A network whose output is given."""

    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, x, c_noise, cond):
        return self.out


def process(description, arrays, schedule, kind, rows=slice(None)):
    """The recorded process for some rows: denoiser, levels down to 0, step index, factors of x and of the next x."""
    tensors = {name: torch.from_numpy(value)[rows] for name, value in arrays.items()}
    out = tensors["network_eps"]
    if kind == "LEARNED_RANGE":
        out = torch.cat([out, tensors["network_v"]], dim=1)
    images = tensors["x0"]
    spec = NetSpec(tuple(images.shape[2:]), images.shape[1], out_channels=out.shape[1])
    fixed = {} if kind == "LEARNED_RANGE" else {"variance": VARIANCE[kind]}
    steps = description["timesteps"]
    denoiser = DDPMPrecond(Recorded(out), spec, beta_schedule=schedule, diffusion_steps=steps, **fixed)
    assert denoiser.variance == VARIANCE[kind]
    levels = torch.cat([denoiser.levels, torch.zeros(1, dtype=torch.float64)])
    index = steps - 1 - tensors["t"]
    here, following = ((1 + levels[one].reshape(-1, 1, 1, 1) ** 2).rsqrt() for one in (index, index + 1))
    recorded = {key.removeprefix(f"{schedule}:{kind}:"): value for key, value in tensors.items()}
    return SimpleNamespace(
        denoiser=denoiser,
        levels=levels,
        steps=GaussianSteps(levels),
        index=index,
        images=images.double(),
        x=recorded["x_t"].double() / here,
        sigma=levels[index].reshape(-1, 1, 1, 1),
        here=here,
        following=following,
        recorded=recorded,
    )


@pytest.mark.parametrize("description, arrays, schedule, kind", PROCESSES)
def test_forward_process_and_reverse_distribution(description, arrays, schedule, kind):
    p = process(description, arrays, schedule, kind)
    x = p.images + p.sigma * p.recorded["eps"].double()
    assert vectors.relative_error(x * p.here, p.recorded["x_t"]) < 1e-6
    out = p.denoiser(p.x, p.sigma)
    for clip in (0, 1):
        x0 = (out.x0.clamp(-1, 1) if clip else out.x0).double()
        mean = p.steps.posterior_mean(p.x, x0, p.index) * p.following
        log_variance = p.steps.log_variance(p.index, p.denoiser.variance, out.var) + 2 * p.following.log()
        for name, value in (("pred_xstart", x0), ("mean", mean), ("log_variance", log_variance.expand_as(mean))):
            assert vectors.relative_error(value, p.recorded[f"clip{clip}:{name}"]) < 1e-5, (clip, name)


class GuidedStep:
    """A denoiser for two steps that predicts at the recorded x in the second one, whatever x the first one led to."""

    def __init__(self, p, gradient, clip):
        self.p, self.spec, self.variance = p, p.denoiser.spec, p.denoiser.variance
        self.denoiser, self.gradient = clipped(p.denoiser, clip), gradient

    def __call__(self, x, sigma):
        here = bool(sigma == self.p.sigma)
        out = self.denoiser(self.p.x if here else x, sigma.reshape(-1))
        x0 = out.x0.double()
        if self.gradient is None:
            return Prediction(x0, out.var)
        return Prediction(x0 + sigma**2 * self.gradient, out.var, guidance=self.gradient)


class Reached(Exception):
    pass


def one_step(p, sampler, guided, clip):
    """The recorded step by the sampler. To the step to 0 it comes from the one before, whose variance it takes."""
    last = int(p.index) == len(p.steps) - 1
    levels = p.levels[int(p.index) - last :]
    gradient = p.recorded["classifier_gradient"].double() * p.here if guided else None
    met = []

    def callback(x, sigma, x0):
        met.append(x)
        if len(met) == 2 and not last:
            raise Reached

    try:
        x = sampler(GuidedStep(p, gradient, clip), p.x, levels, lambda x: p.recorded["step_noise"].double(), callback)
    except Reached:
        x = met[1]
    return x * p.following


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("description, arrays, schedule, kind", PROCESSES)
def test_one_step_of_each_sampler(description, arrays, schedule, kind, clip):
    runs = {
        "ancestral": (DDPMSampler(), False),
        "ancestral_guided": (DDPMSampler(), True),
        "ddim_eta0.0": (DDIMSampler(), False),
        "ddim_eta0.5": (DDIMSampler(eta=0.5), False),
        "ddim_guided": (DDIMSampler(), True),
    }
    for row in range(len(arrays["t"])):
        p = process(description, arrays, schedule, kind, slice(row, row + 1))
        for name, (sampler, guided) in runs.items():
            error = vectors.relative_error(one_step(p, sampler, guided, bool(clip)), p.recorded[f"clip{clip}:{name}"])
            assert error < 1e-5, (row, name, error)


LOSSES = {"MSE": "simple", "RESCALED_MSE": "hybrid", "KL": "vlb", "RESCALED_KL": "kl"}


@pytest.mark.parametrize("recorded_name, name", LOSSES.items())
@pytest.mark.parametrize("description, arrays, schedule, kind", PROCESSES)
def test_losses(description, arrays, schedule, kind, recorded_name, name, monkeypatch):
    p = process(description, arrays, schedule, kind)
    learned = kind == "LEARNED_RANGE"
    if name == "hybrid" and not learned:
        name = "simple"  # the rescaled error of a fixed variance has no other term
    loss = make({"name": name, **({"learn_sigma": learned} if name in ("vlb", "kl") else {})}, "loss")
    loss.noise.sample = lambda count, denoiser, device: p.sigma.float()
    monkeypatch.setattr(torch, "randn_like", lambda images: p.recorded["eps"].to(images.dtype))
    if name == "simple" and learned:  # the reference also trains the variance here, by the bound unscaled
        return
    with torch.no_grad():
        out = loss(p.denoiser, Batch(p.images.float()), step_at())
    per_element = out.terms["loss"]
    assert vectors.relative_error(per_element, p.recorded[f"{recorded_name}:loss"]) < 1e-5
    for term in ("mse", "vb"):
        if f"{recorded_name}:{term}" in p.recorded and term in out.terms:
            assert vectors.relative_error(out.terms[term], p.recorded[f"{recorded_name}:{term}"]) < 1e-5


@pytest.mark.parametrize("description, arrays, schedule, kind", PROCESSES)
def test_terms_of_the_bound(description, arrays, schedule, kind):
    p = process(description, arrays, schedule, kind)
    out = p.denoiser(p.x, p.sigma)
    log_variance = p.steps.log_variance(p.index, p.denoiser.variance, out.var)
    bits = p.steps.bits(p.images, p.x, out.x0.double().clamp(-1, 1), log_variance, p.index).mean(dim=(1, 2, 3))
    assert vectors.relative_error(bits, p.recorded["vb_bpd"]) < 1e-5
    prior = prior_bits(p.images, p.denoiser.sigma_max).mean(dim=(1, 2, 3))
    # The reference rounds -1 + 1 + ... in float32, which leaves 1e-9.
    assert torch.allclose(prior, p.recorded["prior_bpd"].double(), rtol=1e-5, atol=2e-9)
