"""Paths, conversions, losses and samplers of flow matching equal SiT's, LightningDiT's and the flow_matching library's.

Their networks are a formula here, D and its inputs are those of `FlowPrecond`.
"""

import zlib

import numpy as np
import pytest
import torch
from torch import nn

from elucid.training.losses.flow import FlowMatching
from elucid.training.noise.paths import make_path
from elucid.training.noise.times import LogitNormalTime, shifted
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import make
from elucid.training.samplers.flow.base import Flow
from elucid.training.samplers.flow.sde import DIFFUSIONS
from elucid.training.types import Batch, NetSpec, Prediction
from tests import vectors
from tests.oracles import step_at

PATHS = {"Linear": "linear", "GVP": "cosine", "VP": "vp"}
PREDICTIONS = {"velocity": "v", "noise": "epsilon", "score": "score"}
SOLVERS = {"euler": "flow_euler", "heun2": "flow_heun", "dopri5": "dopri5"}


class StandIn(nn.Module):
    """tanh(x)(0.5 + t) - 0.3 t x, the network of the recorded cases."""

    def forward(self, x, c_noise, cond):
        t = c_noise.reshape(-1, *[1] * (x.ndim - 1))
        return x.tanh() * (0.5 + t) - 0.3 * t * x


class Double(FlowPrecond):
    """Computes in the precision of x, so that solvers are compared, not roundings at the ends."""

    def forward(self, x, sigma, cond=None):
        c = self.coefficients(torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1))
        out = self.model(c.c_in * x, c.c_noise.reshape(-1).expand(len(x)), cond)
        return Prediction(c.c_skip * x + c.c_out * out)


def denoiser(path, prediction, kind=FlowPrecond, **options):
    return kind(StandIn(), NetSpec((3, 3), 2), path=path, prediction=prediction, time="data", **options)


def load(case):
    description, arrays = vectors.load(case)
    return description, {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def broadcast(t, x):
    return t.reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("case", vectors.cases("transformers/sit/paths"), ids=str)
@pytest.mark.parametrize("theirs", PATHS)
def test_paths_of_sit(case, theirs):
    """Their t is ours turned around, and so is the sign of each derivative."""
    _, arrays = load(case)
    path, t = make_path(PATHS[theirs]), 1 - arrays["t"].double()
    expected = {"alpha": path.a(t), "sigma": path.b(t), "d_alpha": -path.a_slope(t), "d_sigma": -path.b_slope(t)}
    for name, value in expected.items():
        np.testing.assert_allclose(value, arrays[f"{theirs}:{name}"], rtol=2e-5, atol=1e-6, err_msg=name)
    data, noise, output = (arrays[name].double() for name in ("data", "noise", "output"))
    t4 = broadcast(t, data)
    a, b, a_slope, b_slope = (f(t4) for f in (path.a, path.b, path.a_slope, path.b_slope))
    x = a * data + b * noise
    assert vectors.relative_error(x, arrays[f"{theirs}:x_t"]) < 1e-5
    assert vectors.relative_error(-(a_slope * data + b_slope * noise), arrays[f"{theirs}:u_t"]) < 1e-5
    for name, function in DIFFUSIONS.items():
        of = {"sbdm": "SBDM", "increasing_decreasing": "inccreasing-decreasing"}.get(name, name)
        for norm in (1.0, 0.7):
            ours, recorded = function(path, t4, norm), arrays[f"{theirs}:diffusion:{of}:{norm}"]
            np.testing.assert_allclose(ours, recorded.expand(ours.shape), rtol=1e-4, atol=1e-6, err_msg=name)
    # The program's output, taken for a velocity, as score and noise: what our D of a velocity gives.
    x0 = (b_slope * x + b * output) / path.wronskian(t4)  # their velocity has the other sign
    assert vectors.relative_error((a * x0 - x) / b**2, arrays[f"{theirs}:score_from_velocity"]) < 1e-4


@pytest.mark.parametrize("case", vectors.cases("transformers/sit/losses"), ids=str)
def test_losses_of_sit(case):
    description, arrays = load(case)
    data, noise = arrays["data"], arrays["noise_draw"]
    for name in description["cases"]:
        theirs, prediction, weight = name.split(":")
        one = denoiser(PATHS[theirs], PREDICTIONS[prediction])
        low, high = (0.0, 1 - 1e-5) if theirs == "VP" else (0.0, 1.0) if prediction == "velocity" else (1e-3, 0.999)
        t = low + arrays["uniform_draw"].double() * (high - low)
        path = one.process
        sigma = path.sigma(1 - t).reshape(-1, 1, 1, 1).float()
        own = "v" if prediction == "velocity" else "epsilon"
        error = {"velocity": "v", "likelihood": "likelihood"}.get(weight, own)
        loss = FlowMatching(LogitNormalTime(), error=error)
        found = loss.evaluate(one, Batch(data), sigma, noise).error.mean(dim=(1, 2, 3))
        assert vectors.relative_error(found, arrays[f"{name}:loss"]) < 1e-5, name


def recorded_noise(salt):
    step = 0

    def noise(x):
        nonlocal step
        seed = zlib.crc32(f"{salt}:input:step{step}".encode())
        step += 1
        return torch.from_numpy(np.random.RandomState(seed).randn(*x.shape).astype(np.float32)).to(x.dtype)

    return noise


def sit_runs():
    for case in vectors.cases("transformers/sit/samplers"):
        for run in vectors.load(case)[0]["runs"]:
            yield pytest.param(case, run, id=run["out"])


@pytest.mark.parametrize("case, run", sit_runs())
def test_samplers_of_sit(case, run):
    description, arrays = load(case)
    theirs, prediction, kind, solver, *sde = run["out"].split(":")
    one = BoundDenoiser(denoiser(PATHS[theirs], PREDICTIONS[prediction], Double))
    path, steps = one.process, run["num_steps"]
    # Their distance from the ends: of noise, and of data.
    far, near = (0.0, 1e-3) if theirs == "VP" else (0.0, 0.0) if prediction == "velocity" else (1e-3, 1e-3)
    options = {"path": PATHS[theirs]}
    if kind == "ode":
        t = torch.linspace(1 - far, near, steps, dtype=torch.float64)
        options |= {"heun2": {"last_euler": False}, "dopri5": {"rtol": 1e-8, "atol": 1e-10}}.get(solver, {})
    else:
        last = near if sde[1] == "None" else float(sde[-1])
        t = torch.linspace(1 - far, last, steps, dtype=torch.float64)
        t = t if sde[1] == "None" else torch.cat([t, t.new_zeros(1)])
        form = {"SBDM": "sbdm", "inccreasing-decreasing": "increasing_decreasing"}.get(sde[0], sde[0])
        options |= {"diffusion": form, "norm": run["diffusion_norm"], "solver": solver.lower()}
        options |= {"last_step": sde[1].lower()}
    sampler = make({"name": "flow_sde" if kind == "sde" else SOLVERS[solver], **options}, "sampler")
    sigmas = path.sigma(t)
    # Their samplers take unit noise for x_t even where some image is left, or t is not quite 1.
    x = arrays["init"].double() * sigmas[0] / path.b(t[0])
    if run.get("not_finite"):
        with pytest.raises(Exception, match="infinite"):
            sampler(one, x, sigmas, recorded_noise(description["salt"]) if "salt" in description else torch.randn_like)
        return
    out = sampler(one, x, sigmas, recorded_noise(description.get("salt", "public")))
    out = out * path.a(t[-1])  # theirs is x_t
    if solver == "dopri5":  # the recorded run is as far from the solution as its tolerance of 1e-3 lets it be
        solution, recorded = reference_ode(path, prediction, arrays["init"], t)
        assert vectors.relative_error(recorded, arrays[run["out"]]) < 1e-4
        assert vectors.relative_error(out, solution) < 1e-6
    else:  # b = sqrt(1 - a^2) of VP has fewer digits in the program's float32
        assert vectors.relative_error(out, arrays[run["out"]]) < (3e-5 if theirs == "VP" else 1e-5)


def reference_ode(path, prediction, init, times):
    """The solution by torchdiffeq, and its result with the program's tolerances, float32, from the formula itself."""
    odeint, network = pytest.importorskip("torchdiffeq").odeint, StandIn()

    def velocity(t, x):
        out = network(x, t, None)
        if prediction == "velocity":
            return out
        ours = (1 - t).to(x.dtype)
        x0 = (x - path.b(ours) * out) / path.a(ours)
        return -(path.a_slope(ours) * x0 + path.b_slope(ours) * out)

    exact = odeint(velocity, init.double(), 1 - times, method="dopri5", rtol=1e-9, atol=1e-11)[-1]
    return exact, odeint(velocity, init, (1 - times).float(), method="dopri5", rtol=1e-3, atol=1e-6)[-1]


@pytest.mark.parametrize("case", vectors.cases("transformers/flow_matching/paths"), ids=str)
@pytest.mark.parametrize("theirs", ["cond_ot", "polynomial2", "vp", "linear_vp", "cosine"])
def test_paths_of_the_library(case, theirs):
    _, arrays = load(case)
    path = make_path({"cond_ot": "linear"}.get(theirs, theirs))
    t, data, noise, output = (arrays[name].double() for name in ("t", "data", "noise", "output"))
    t = 1 - t
    for name, value in {
        "alpha_t": path.a(t),
        "sigma_t": path.b(t),
        "d_alpha_t": -path.a_slope(t),
        "d_sigma_t": -path.b_slope(t),
    }.items():
        np.testing.assert_allclose(value, arrays[f"{theirs}:{name}"], rtol=2e-5, atol=1e-6, err_msg=name)
    t3 = broadcast(t, data)
    a, b, a_slope, b_slope, w = (f(t3) for f in (path.a, path.b, path.a_slope, path.b_slope, path.wronskian))
    x = a * data + b * noise
    conversions = {
        "x_t": x,
        "dx_t": -(a_slope * data + b_slope * noise),
        "velocity_to_target": (b_slope * x + b * output) / w,
        "target_to_velocity": -(b_slope * x - w * output) / b,
        "epsilon_to_target": (x - b * output) / a,
        "target_to_epsilon": (x - a * output) / b,
    }
    for name, value in conversions.items():
        assert vectors.relative_error(value, arrays[f"{theirs}:{name}"]) < 1e-5, name
    ratio = (path.b(t) / path.a(t)).double()
    np.testing.assert_allclose(path.time(path.sigma(t)), t, rtol=1e-9)
    assert path.derivative(t) == pytest.approx(
        [(path.sigma(one + 1e-6) - path.sigma(one - 1e-6)).item() / 2e-6 for one in t], rel=1e-6
    )
    assert torch.equal(path.sigma(t), ratio)


@pytest.mark.parametrize("case", vectors.cases("transformers/flow_matching/paths"), ids=str)
def test_a_model_is_solved_along_another_path(case):
    """The velocity at time r of path B, of a network trained on path A, is that of our samplers with `path` B."""
    _, arrays = load(case)
    names = {"CondOT": "linear", "VP": "vp", "Cosine": "cosine"}
    found = [name for name in arrays if name.startswith("transformed:")]
    for name in found:
        _, own, other, r = name.split(":")
        one = BoundDenoiser(denoiser(names[own], "v", Double))
        path, t = make_path(names[other]), 1 - torch.tensor(float(r), dtype=torch.float64)
        x = arrays["noise"].double()[..., None]  # [B,C,H,1], an image
        flow = Flow(one, path, x, path.sigma(t.reshape(1)), 0.0, None)
        velocity = -flow.velocity(x, t, flow.x0(x, t))
        assert vectors.relative_error(velocity[..., 0], arrays[name]) < 1e-5, name
    assert len(found) >= 9


@pytest.mark.parametrize("case", vectors.cases("transformers/lightningdit/transport"), ids=str)
def test_transport_of_lightningdit(case):
    description, arrays = load(case)
    for shift in (0.3, 3.0):
        ours = 1 - shifted(1 - torch.linspace(0, 1, 11, dtype=torch.float64), 1 / shift)
        np.testing.assert_allclose(ours, arrays[f"grid:{shift}"], atol=1e-6)
    z = arrays["logit_normal_z"]
    np.testing.assert_allclose(1 - (-z).sigmoid(), arrays["logit_normal"], atol=1e-6)
    one, loss = denoiser("linear", "v"), FlowMatching(LogitNormalTime(), cosine=1.0)
    sigma = (-z[:5]).exp().reshape(-1, 1, 1, 1).float()
    data, noise = arrays["data"], arrays["noise_draw"]
    found = loss.evaluate(one, Batch(data), sigma, noise)
    assert vectors.relative_error(found.error.mean(dim=(1, 2, 3)), arrays["loss"]) < 1e-5
    angle = loss.angle(one, data, found.x, sigma, found.prediction.x0)
    assert vectors.relative_error(angle, arrays["cos_loss"]) < 1e-5
    schedule = make({"name": "flow", "num_steps": 6, "shift": 1 / 0.3}, "schedule")
    sigmas = schedule(one)
    out = make("flow_euler", "sampler")(BoundDenoiser(one), arrays["init"].double() * sigmas[0], sigmas, None)
    assert vectors.relative_error(out, arrays["euler_shift0.3"]) < 1e-5


def test_the_loss_and_its_logged_terms():
    one = denoiser("linear", "v")
    torch.manual_seed(0)
    batch = Batch(torch.randn(4, 2, 3, 3))
    for mean in (False, True):
        torch.manual_seed(1)
        out = FlowMatching(LogitNormalTime(), cosine=0.5, mean=mean)(one, batch, step_at())
        total = out.terms["squares"] + 0.5 * out.terms["cosine"]
        assert torch.allclose(out.terms["loss"], total)
        assert torch.allclose(out.loss, out.terms["loss"] * (1 if mean else 18))
