"""Losses of continuous time equal the reference: sCM and sCD, MeanFlow, in float64 with their gradients."""

import math

import pytest
import torch
from torch import nn

from elucid.training.losses.fewstep.derivative import arc, with_derivative
from elucid.training.losses.fewstep.scm import step_of, trigflow
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import make
from elucid.training.types import Batch, NetSpec, Step
from tests import vectors
from tests.tiny import Tiny

S, FIRST = 0.5, 0.999


class Weight(nn.Module):
    """The learned weighting u = W [c_noise, 1] of a case."""

    def __init__(self, case):
        super().__init__()
        self.weight = nn.Parameter(vectors.formula(case["salt"], "weight", case["parameters"]["lv.weight"]).double())

    def forward(self, c_noise):
        return (torch.stack([c_noise, torch.ones_like(c_noise)], dim=1) @ self.weight.T).reshape(-1)


def tensors(path):
    case, arrays = vectors.load(path)
    return case, {name: torch.as_tensor(array) for name, array in arrays.items()}


def runs(pattern):
    """The cases and the numbers of their runs."""
    return [(path, key) for path in vectors.cases(pattern) for key in range(len(vectors.load(path)[0]["runs"]))]


def column(value):
    return value.double().reshape(-1, 1, 1, 1)


def close(value, expected, tolerance=1e-9):
    assert vectors.relative_error(value, expected) < tolerance


def close_norms(network, expected, tolerance=1e-9):
    norms = network.grad_norms()
    wanted = {name: norm for name, norm in expected.items() if not name.startswith("lv")}
    assert wanted.keys() <= norms.keys() and not any(norms[name] for name in norms.keys() - wanted.keys())
    for name, norm in wanted.items():
        assert norms[name] == pytest.approx(norm, rel=tolerance), name


def edm(case, factor=1.0):
    network = Tiny(case)
    for parameter in network.parameters():
        parameter.data *= factor  # in float32, as it was recorded
    spec = NetSpec((4, 4), 3, vector={"labels": 4})
    denoiser = EDMPrecond(network.double(), spec, "fp64", sigma_data=S)
    denoiser.uncertainty = Weight(case)
    return denoiser


def scm_loss(case, run):
    options = {
        "c": case["tangent_warmup_const"],
        "warmup": case["tangent_warmup_steps"],
        "norm": "rms" if run["g_norm_spatial_invariance"] else "norm",
        "prior": run["prior_weighting"],
        "divide_twice": run["divide_x_0_spatial_dim"],
    }
    loss = make({"name": "scd", "teacher": "model.pkl", **options} if run["cd"] else {"name": "scm", **options}, "loss")
    if run["cd"]:
        loss.teacher = edm(case, 1.1)
    return loss


SCM = [
    (path, key) for path in vectors.cases("fewstep/fastgen_scm*") for key in range(len(vectors.load(path)[0]["runs"]))
]


@pytest.mark.parametrize(("path", "key"), SCM, ids=lambda one: getattr(one, "stem", one))
def test_scm(path, key):
    case, t = tensors(path)
    run = case["runs"][key]
    denoiser, base = edm(case), scm_loss(case, run)
    batch = Batch(t["images"].double(), {"labels": t["class_labels"].double()})
    at = base.at

    def drawn(*ignored):  # by the recorded draws, within the learned weighting
        return at(denoiser, batch, column(t["t"]), t["noise_draw"].double(), run["warmup_r"])

    base.forward = drawn
    out = make({"name": "uncertainty", "base": {"name": "scm"}}, "loss")
    out.base = base
    result = out(denoiser, batch, at_step(run["iteration"]))
    assert base.warmed(at_step(run["iteration"])) == run["warmup_r"]
    close(result.loss, t[f"loss{key}"])
    divided = result.terms["loss"] * (48 if run["divide_x_0_spatial_dim"] else 1)
    close(divided * (t["t"].double() if run["prior_weighting"] else 1), t[f"unweighted{key}"])
    result.loss.mean().backward()
    close_norms(denoiser.model, run["grad_norms"])
    assert float(denoiser.uncertainty.weight.grad.norm()) == pytest.approx(run["grad_norms"]["lv.weight"], rel=1e-9)


def at_step(index):
    return Step(index, index * 8, 10**9, 0, 8)


@pytest.mark.parametrize("path", vectors.cases("fewstep/fastgen_scm*"), ids=lambda path: path.stem)
def test_scm_pieces(path):
    case, arrays = tensors(path)
    denoiser, images, noise = edm(case), arrays["images"].double(), S * arrays["noise_draw"].double()
    t = (column(arrays["t"]) / S).atan()
    close(t.flatten(), arrays["ct:t_hat"])
    x, labels = t.cos() * images + t.sin() * noise, {"labels": arrays["class_labels"].double()}
    for kind in ("ct", "cd"):
        of = scm_loss(case, {**case["runs"][0], "cd": kind == "cd"})
        dx = of.slope(denoiser, Batch(images, labels), x, t, noise)
        close(dx, arrays[f"{kind}:dxt_dt"])
        for how in ("forward", "difference"):
            value, slope = with_derivative(
                lambda x, t: trigflow(denoiser, x, t, labels, S),
                *(x, t, dx, how, t.cos() * t.sin(), arc, step_of(t), math.inf),
            )
            close(value, arrays[f"{kind}:F"])
            assert not slope.requires_grad and value.requires_grad
            if how == "forward":
                close(slope, arrays[f"{kind}:jvp"])
            elif kind == "ct":
                close(slope[:5], arrays["ct:jvp_finite_difference"])
                close(slope[5:], arrays["ct:jvp"][5:], 1e-3)  # where the reference fails
        for run in case["runs"]:
            if run["cd"] == (kind == "cd"):
                close(tangent(run, case, arrays, x, t, dx, value, arrays[f"{kind}:jvp"]), arrays[f"g{run['key']}"])


def tangent(run, case, arrays, x, t, dx, value, slope):
    """The published formula, by hand."""
    g = -(t.cos() ** 2) * (S * value - dx) - run["warmup_r"] * (t.cos() * t.sin() * x + S * slope)
    size = g.flatten(1).norm(dim=1) / (48**0.5 if run["g_norm_spatial_invariance"] else 1)
    return g / (size.reshape(-1, 1, 1, 1) + case["tangent_warmup_const"])


def flow(case, dtype=torch.float64, second="difference"):
    spec = NetSpec((4, 4), 3, vector={"labels": 4, "sigma_to": 1})
    precision = "fp64" if dtype == torch.float64 else "fp32"
    return FlowPrecond(Tiny(case).to(dtype), spec, precision, second=second)


MEAN_FLOW = [
    (path, key) for path in vectors.cases("fewstep/meanflow*") for key in range(len(vectors.load(path)[0]["runs"]))
]


@pytest.mark.parametrize(("path", "key"), MEAN_FLOW, ids=lambda one: getattr(one, "stem", one))
def test_mean_flow(path, key):
    case, arrays = tensors(path)
    run, options = case["runs"][key], case["runs"][key]["options"]
    dtype = {"torch.float32": torch.float32, "torch.float64": torch.float64}[run["dtype"]]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-7
    loss = make(
        {
            "name": "mean_flow",
            **{name: options[name] for name in ("norm_p", "norm_eps", "ratio", "tr_sampler", "P_mean_r", "P_std_r")},
            "P_mean": options["P_mean_t"],
            "P_std": options["P_std_t"],
        },
        "loss",
    )
    draws = [arrays[f"{name}{key}"].to(dtype).reshape(-1, 1, 1, 1) for name in ("t_draw", "r_draw", "uniform")]
    t, r = loss.pairs.of(*draws)
    close(t.flatten(), arrays[f"t{key}"], max(tolerance, 1e-6))
    close(r.flatten(), arrays[f"r{key}"], max(tolerance, 1e-6))
    denoiser, images = flow(case, dtype), arrays["images"].to(dtype)
    value, _ = loss.at(denoiser, images, {"labels": images.new_zeros(8, 4)}, t, r, arrays[f"noise{key}"].to(dtype))
    close(value.mean(), arrays[f"loss{key}"], tolerance)
    value.mean().backward()
    close_norms(denoiser.model, run["grad_norms"], 1e-4 if dtype == torch.float32 else 1e-6)


@pytest.mark.parametrize("path", vectors.cases("fewstep/meanflow*"), ids=lambda path: path.stem)
def test_mean_flow_sample(path):
    case, arrays = tensors(path)
    noise, one = arrays["sample_noise"], torch.ones(8, 1, 1, 1)
    with torch.no_grad():
        u = flow(case, torch.float32).velocity(noise, one, 0 * one, {"labels": torch.zeros(8, 4)})
    close(noise - u, arrays["sample"], 1e-6)


FASTGEN = vectors.cases("fewstep/fastgen_meanflow*")


def fastgen_loss(run):
    power = float(run["norm_method"].removeprefix("poly_"))
    options = {"loss_type": run["loss_type"], "norm": "rms" if run["tangent_spatial_invariance"] else "norm"}
    return make({"name": "mean_flow", **options, "norm_p": power, "norm_eps": run["norm_const"]}, "loss")


@pytest.mark.parametrize("path", FASTGEN, ids=lambda path: path.stem)
def test_mean_flow_by_fastgen(path):
    case, arrays = tensors(path)
    images, noise = arrays["images"].double(), arrays["noise_draw"].double()
    labels, t, r = {"labels": arrays["class_labels"].double()}, column(arrays["t"]), column(arrays["r"])
    x, v = (1 - t) * images + t * noise, noise - images
    close(v, arrays["velocity"])
    _, slope = with_derivative(lambda x, t: flow(case, second="time").velocity(x, t, r, labels), x, t, v)
    close(slope, arrays["jvp"])
    for run in case["runs"]:
        denoiser = flow(case, second="time")
        loss, _ = fastgen_loss(run).at(denoiser, images, labels, t, r, noise, run["warmup_weight"])
        close(loss, arrays[f"loss{run['key']}"])
        loss.mean().backward()
        close_norms(denoiser.model, run["grad_norms"])


@pytest.mark.parametrize("path", FASTGEN, ids=lambda path: path.stem)
def test_guidance_in_the_target(path):
    case, arrays = tensors(path)
    guided, denoiser = case["guided"], flow(case, second="time")
    images, noise, t = arrays["images"].double(), arrays["guided:noise"].double(), column(arrays["t"])
    x, v, cond = (1 - t) * images + t * noise, noise - images, {"labels": arrays["class_labels"].double()}
    for run in guided["runs"]:
        options = {"omega": run["guidance"], "kappa": run["mixture"] or 0.0, "interval": guided["interval"]}
        guidance = make({"name": "mean_flow", **options, "label_dropout": guided["dropout"]}, "loss").guidance
        kept = guidance.without_first(cond, (arrays["guided:uniform"] < guidance.label_dropout).sum())
        assert torch.equal(kept["labels"], arrays[f"guided:{run['guidance']}:labels"].double())
        close(guidance.velocity(denoiser, x, t, v, kept), arrays[f"guided:{run['guidance']}:velocity"])


@pytest.mark.parametrize("path", FASTGEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples(path, steps):
    """From t = 0.999 at equal steps of t, by the sampler of flow maps; labels as recorded."""
    case, arrays = tensors(path)
    denoiser = flow(case, torch.float32, second="time").eval()
    times = torch.linspace(FIRST, 0, steps + 1, dtype=torch.float64)
    sigmas, noise = times / (1 - times), arrays["sample_noise"].double()
    bound = BoundDenoiser(denoiser, {"labels": arrays["class_labels"].float()})
    x = make("flow_map", "sampler")(bound, noise / (1 - times[0]), sigmas, torch.randn_like)
    close(x, arrays[f"sample_ode:{steps}"], 1e-5)
