"""The preconditioner, its steps and its samplers equal the published program of inductive moment matching."""

import math
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.losses.fewstep.imm import moved
from elucid.training.noise.chosen import ChosenLevels
from elucid.training.noise.fewstep.flow_map import FlowMapSteps
from elucid.training.noise.paths import make_path
from elucid.training.preconds.fewstep.imm import IMMPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import make
from elucid.training.types import Batch, NetSpec
from tests import vectors

PATHS = {"fm": "linear", "vp_cosine": "cosine"}
PREDICTIONS = {"simple_edm": "edm", "euler_fm": "v", "identity": "x"}
SECOND = {"identity": "time", "stride": "difference"}
SAMPLERS = {"pushforward_generator_fn": "flow_map", "restart_generator_fn": "consistency"}
CASES = [case for case in vectors.cases("fewstep/*") if "nt_to_t" in vectors.load(case)[0].get("functions", ())]


class Tiny(nn.Module):
    """The two layers of the recorded cases, which see both times."""

    def __init__(self, case):
        super().__init__()
        self.weights = {name: vectors.formula(case["salt"], name, shape) for name, shape in case["parameters"].items()}
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x, c_noise, cond):
        of = {name: value.to(x.dtype) for name, value in self.weights.items()}
        times = torch.stack([c_noise, cond["sigma_to"].reshape(-1)], dim=1).to(x.dtype) / 1000
        hidden = x.flatten(1) @ of["inp.weight"].T + times @ of["time.weight"].T
        hidden = (hidden + cond["labels"].to(x.dtype) @ of["label.weight"].T).tanh()
        hidden = (hidden @ of["hid.weight"].T + of["hid.bias"]).tanh()
        return (hidden @ of["out.weight"].T).reshape(x.shape)


def load(case):
    description, arrays = vectors.load(case)
    return description, {name: torch.from_numpy(np.asarray(value)).double() for name, value in arrays.items()}


def denoiser_of(case, name):
    prediction, second, path = name.split(":")
    options = {"path": PATHS[path], "prediction": PREDICTIONS[prediction], "second": SECOND[second]}
    options |= {"noise_scale": case["sigma_data"], "t_min": case["eps"], "t_max": case["T"]}
    shape, classes = (3, 4, 4), case["parameters"]["label.weight"][1]
    spec = IMMPrecond.adapt(NetSpec(shape[1:], shape[0], vector={"labels": classes}))
    return IMMPrecond(Tiny(case), spec, "fp64", **options).eval()


def levels_of(denoiser, t):
    return denoiser.process.sigma(t).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("theirs", PATHS)
def test_paths(case, theirs):
    description, arrays = load(case)
    path, t, s = make_path(PATHS[theirs], description["sigma_data"]), arrays["t"], arrays["s"]
    a, b, a_to, b_to = (one.reshape(-1, 1, 1, 1) for one in (path.a(t), path.b(t), path.a(s), path.b(s)))
    x_t = a * arrays["x"] + b * path.noise_scale * arrays["noise"]
    assert vectors.relative_error(x_t, arrays[f"{theirs}:x_t"]) < 1e-7
    ratios = torch.linspace(0.01, 150, 12, dtype=torch.float64)
    assert vectors.relative_error(path.time_of_ratio(ratios), arrays[f"{theirs}:nt_to_t"]) < 1e-12
    close = {"rtol": 1e-9, "atol": 1e-9}
    assert torch.allclose(2 * (path.a(t) / path.b(t)).log(), arrays[f"{theirs}:logsnr"], **close)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("guidance", [None, 1.5])
def test_steps(case, guidance):
    """f_st is the step of a denoiser that is told of s, for each way to predict, also guided."""
    description, arrays = load(case)
    names = sorted({run["precond"] for run in description["runs"]})
    assert names
    for name in names:
        denoiser, one = denoiser_of(description, name), slice(None) if guidance is None else [0] * len(arrays["x"])
        t, s = arrays["t"][one], arrays["s"][one]
        sigma, to = levels_of(denoiser, t), levels_of(denoiser, s)
        at_end = denoiser if guidance is None else ClassifierFreeGuidance(denoiser, guidance)
        x = arrays["x"] / denoiser.process.a(t).reshape(-1, 1, 1, 1)
        # The program steps to times below eps as to any other.
        denoiser.sigma_min = 0.0
        step = moved(at_end, x, sigma, to, Batch(x, {"labels": arrays["class_labels"]}))
        reference = arrays[f"{name}:out" if guidance is None else f"{name}:cfg{guidance}"]
        assert vectors.relative_error(step, reference) < 1e-5, name


def recorded_noise(salt, draws):
    count = 0

    def noise(x):
        nonlocal count
        assert count < draws
        draw = np.random.RandomState(zlib.crc32(f"{salt}:input:immr:draw{count}".encode())).randn(*x.shape)
        count += 1
        return torch.from_numpy(draw).to(x.dtype)

    return noise


def runs():
    for case in CASES:
        for run in vectors.load(case)[0]["runs"]:
            yield pytest.param(case, run, id=f"{run['out']}-{run['precond']}")


@pytest.mark.parametrize(("case", "run"), list(runs()))
def test_samplers(case, run):
    """Pushforward is the sampler flow_map, restart is consistency; the program starts from whole noise at t_max."""
    description, arrays = load(case)
    denoiser, options = denoiser_of(description, run["precond"]), run["options"]
    scale = options.get("cfg_scale", 1.0)
    guided = denoiser if scale == 1 else ClassifierFreeGuidance(denoiser, scale)
    bound = BoundDenoiser(guided, {"labels": arrays["class_labels"]})
    if "mid_nt" in options:
        ends = [denoiser.sigma_max, *(denoiser.process.noise_scale * ratio for ratio in options["mid_nt"])]
        sigmas = ChosenLevels(levels=ends)(bound, len(ends))
    else:
        sigmas = FlowMapSteps(spacing=options["discretization"])(bound, options["num_steps"])
    sampler = make(SAMPLERS[run["sampler"]], "sampler")
    path, t_max = denoiser.process, torch.tensor(description["T"], dtype=torch.float64)
    x = path.noise_scale * arrays["noise"] / path.a(t_max)
    assert math.isclose(float(sigmas[0]), float(path.sigma(t_max)), rel_tol=1e-12) and float(sigmas[-1]) == 0
    with torch.no_grad():
        out = sampler(bound, x, sigmas, recorded_noise(description["salt"], run["draws"]))
    assert vectors.relative_error(out, arrays[run["out"]]) < 1e-5
