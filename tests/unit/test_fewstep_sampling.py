"""Samplers of one and a few steps on exact maps, their levels, and which of them a loss brings."""

import math

import pytest
import torch
from torch import nn

from elucid import TrainOptions
from elucid.dnnlib.errors import UserError
from elucid.training.config.options import options_from
from elucid.training.noise.chosen import ChosenLevels
from elucid.training.preconds.base import Denoiser
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import make
from elucid.training.samplers.base import levels_for
from elucid.training.types import NetSpec, Prediction

MEAN, STD = 0.3, 0.5


class GaussianMap(Denoiser):
    """The flow map of N(MEAN, STD^2) to the level `sigma_to`, as x0; without that condition the flow ends at 0."""

    sigma_max = 80.0

    def __init__(self):
        super().__init__(nn.Identity(), NetSpec((2, 2), 1, vector={"sigma_to": 1}), "fp64")
        self.asked: list[tuple[float, float]] = []

    def forward(self, x, sigma, cond=None):
        sigma, to = torch.as_tensor(sigma).double().reshape(-1), (cond or {}).get("sigma_to", torch.zeros(1)).double()
        self.asked.append((float(sigma[0]), float(to[0])))
        sigma, to = sigma.reshape(-1, 1, 1, 1), to.reshape(-1, 1, 1, 1)
        end = MEAN + (x - MEAN) * ((STD**2 + to**2) / (STD**2 + sigma**2)).sqrt()
        return Prediction((sigma * end - to * x) / (sigma - to))  # where the line from x through `end` starts


def sampled(sampler, levels, count=4):
    torch.manual_seed(0)
    denoiser = GaussianMap()
    sigmas = torch.tensor([*levels, 0.0], dtype=torch.float64)
    x = torch.randn(count, 1, 2, 2, dtype=torch.float64) * sigmas[0]
    return x, sampler(BoundDenoiser(denoiser), x, sigmas, torch.randn_like), denoiser


@pytest.mark.parametrize("name", ["consistency", "flow_map"])
def test_one_step_is_the_map(name):
    x, out, denoiser = sampled(make(name, "sampler"), [80.0])
    expected = MEAN + (x - MEAN) * STD / math.sqrt(STD**2 + 80.0**2)
    assert (out - expected).abs().max() < 1e-12 and denoiser.asked == [(80.0, 0.0)]


def test_a_flow_map_may_stop_anywhere():
    x, out, denoiser = sampled(make("flow_map", "sampler"), [80.0, 3.0, 0.1])
    assert (out - (MEAN + (x - MEAN) * STD / math.sqrt(STD**2 + 80.0**2))).abs().max() < 1e-12
    assert denoiser.asked == [(80.0, 3.0), (3.0, 0.1), (0.1, 0.0)]


def test_consistency_adds_new_noise():
    """Each step ends at the data, whatever it starts from: the samples of two steps have the data's moments."""
    _, out, denoiser = sampled(make("consistency", "sampler"), [80.0, 0.8], count=20_000)
    assert denoiser.asked == [(80.0, 0.0), (0.8, 0.0)]
    assert abs(float(out.mean()) - MEAN) < 0.01 and abs(float(out.std()) - STD) < 0.01


def test_noise_up_to_the_least_level():
    noises = []

    def noise(x):
        noises.append(torch.ones_like(x))
        return noises[-1]

    denoiser, x = GaussianMap(), torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    out = make({"name": "consistency", "sigma_end": 0.6}, "sampler")(
        BoundDenoiser(denoiser), x, torch.tensor([80.0, 1.0, 0.6, 0.0], dtype=torch.float64), noise
    )
    ends = [MEAN * (1 - STD / math.sqrt(STD**2 + 80.0**2))]
    for level, added in ((1.0, 0.8), (0.6, 0.0)):
        ends.append(MEAN + (ends[-1] + added - MEAN) * STD / math.sqrt(STD**2 + level**2))
    assert float(out[0, 0, 0, 0]) == pytest.approx(ends[-1], abs=1e-12) and len(noises) == 2


def test_levels_are_the_first_of_those_chosen():
    schedule, denoiser = ChosenLevels(levels=[80.0, 0.821]), GaussianMap()
    sampler = make("consistency", "sampler")
    assert levels_for(sampler, schedule, denoiser).tolist() == [80.0, 0.0]  # one step is the default
    assert levels_for(sampler, schedule, denoiser, 2).tolist() == [80.0, 0.821, 0.0]
    with pytest.raises(UserError, match=r"`steps`=3.*at most \(80, 0.821\)"):
        levels_for(sampler, schedule, denoiser, 3)
    with pytest.raises(UserError, match=r"`steps`=3"):
        ChosenLevels(num_steps=3, levels=[80.0, 0.821])
    with pytest.raises(UserError, match="not 2 within"):
        ChosenLevels(levels=[200.0, 100.0])(denoiser, 2)


@pytest.mark.parametrize("levels", [[], [0.8, 80.0], [80.0, 80.0], [80.0, 0.0]])
def test_impossible_levels(levels):
    with pytest.raises(UserError, match="largest first"):
        ChosenLevels(levels=levels)


def options_of(**flags):
    return options_from(TrainOptions(data="x.zip", seed=0, **flags).flags())


def test_a_loss_brings_its_sampling():
    assert options_of(loss="edm")["sampler"] == {"name": "edm"}
    options = options_of(loss="ect")
    assert options["sampler"] == {"name": "consistency"}
    assert options["schedule"] == {"name": "chosen", "levels": [80.0, 0.821]}
    assert options_of(loss="uncertainty(ect)")["schedule"] == options["schedule"]
    changed = options_of(loss="ect", set=["schedule.levels=[60, 1]", "sampler.sigma_end=0.002"])
    assert changed["schedule"] == {"name": "chosen", "levels": [60, 1]}
    assert changed["sampler"] == {"name": "consistency", "sigma_end": 0.002}
    other = options_of(loss="ect", set=["schedule.name=karras", "schedule.num_steps=4"])
    assert other["schedule"] == {"name": "karras", "num_steps": 4}


def test_a_teacher_needs_a_pupil():
    with pytest.raises(UserError, match="`teacher`: `loss`=edm learns from no teacher"):
        options_of(loss="edm", teacher="model.pkl")


def test_levels_follow_the_options_of_the_loss():
    """A generator of several steps is sampled at its own levels, a second stage from its transition on."""
    dmd2 = options_of(loss="dmd2", teacher="model.pkl", set=["loss.levels=[20, 2]"])
    assert dmd2["schedule"]["levels"] == [20, 2]
    assert options_of(loss="tcm", teacher="model.pkl", set=["loss.transition=2"])["schedule"]["levels"] == [80.0, 2.0]
    assert options_of(loss="ct", set=["loss.sigma_max=10"])["schedule"]["levels"] == [10.0, 0.821]
    halved = options_of(loss="progressive", teacher="model.pkl", set=["loss.rho=5"])
    assert halved["schedule"] == {"name": "halvings", "rho": 5}
    chosen = options_of(loss="dmd2", teacher="model.pkl", set=["loss.levels=[20, 2]", "schedule.levels=[20]"])
    assert chosen["schedule"]["levels"] == [20]


def test_other_samplers_follow_the_flow_of_a_flow_map():
    """Not told where a step ends, it is a denoiser as any other: an ODE solver ends where the map does."""
    denoiser, instant = GaussianMap(), GaussianMap.forward

    def forward(x, sigma, cond=None):
        sigma = torch.as_tensor(sigma).double().reshape(-1, 1, 1, 1)
        if "sigma_to" in (cond or {}):
            return instant(denoiser, x, sigma, cond)
        return Prediction((STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2))

    denoiser.forward = forward
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64) * 80
    sigmas = levels_for(make("edm", "sampler"), make({"name": "karras", "num_steps": 128}, "schedule"), denoiser)
    out = make("edm", "sampler")(BoundDenoiser(denoiser), x, sigmas, torch.randn_like)
    assert (out - (MEAN + (x - MEAN) * STD / math.sqrt(STD**2 + 80.0**2))).abs().max() < 1e-2


def test_a_loss_that_replaces_the_presets_has_its_own_levels():
    assert options_of(preset="ect-imagenet64-s", loss="edm")["schedule"] == {"name": "karras"}
    assert "sigma_end" not in options_of(preset="ct-imagenet64", loss="edm")["sampler"]
