"""Samplers of few steps equal the published programs: CM's, and FastGen's of both kinds."""

import zlib

import numpy as np
import pytest
import torch

from elucid.training.guidance.clipping import clipped
from elucid.training.noise.schedules import rho_levels
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.preconds.fewstep.consistency import ConsistencyPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import make
from tests import vectors
from tests.conformance.test_consistency_models import cases, denoiser_of, load, runs

OURS = {
    "onestep": "consistency",
    "multistep": "consistency",
    "heun": "edm",
    "euler": "ddim",
    "ancestral": {"name": "ddim", "eta": 1.0},
    "progdist": "ddim",
}
"""Their samplers and ours; a midpoint step in the logarithm of sigma ("dpm") is none of ours."""


class Draws:
    """The recorded noise: call k returns draw k."""

    def __init__(self, salt, name, first=0):
        self.salt, self.name, self.next = salt, name, first

    def __call__(self, x):
        key = f"{self.salt}:input:{self.name}{self.next}"
        self.next += 1
        return torch.from_numpy(np.random.RandomState(zlib.crc32(key.encode())).randn(*x.shape)).to(x.dtype)


def has_equal(path, index):
    return vectors.load(path)[0]["runs"][index]["sampler"] in OURS


@pytest.mark.parametrize(("path", "index"), [run for run in runs("cm_samplers") if has_equal(*run.values)])
def test_cm(path, index):
    case, arrays = load(path)
    run = case["runs"][index]
    name = run["sampler"]
    kind = ConsistencyPrecond if run["boundary"] else EDMPrecond
    denoiser = denoiser_of(case, arrays, kind, sigma_min=0.002).eval()
    sampler = make(OURS[name], "sampler")
    grid = rho_levels(run["steps"] + (name == "progdist"), 0.002, 80.0)
    if name == "multistep":
        grid, sampler.sigma_end = grid[run["ts"][:-1]], 0.002
        grid = torch.cat([grid, torch.tensor([0.002])])
    levels = grid[:1] if name == "onestep" else grid
    draws = Draws(case["salt"], "cm_gen")
    x = draws(torch.zeros(arrays["out0"].shape, dtype=torch.float64)) * levels[0]
    ends = levels if name == "progdist" else torch.cat([levels, torch.zeros(1)])  # which stops at the least level
    bound = BoundDenoiser(clipped(denoiser, run["clip_denoised"]), {"labels": arrays["class_labels"]})
    with torch.no_grad():
        found = sampler(bound, x, ends, draws).clamp(-1, 1)
    assert vectors.relative_error(found, arrays[run["out"]]) < 1e-5


@pytest.mark.parametrize(("path", "index"), runs("fastgen_dmd_and_sampler"))
def test_fastgen(path, index):
    case, arrays = load(path)
    run = case["runs"][index]
    denoiser = denoiser_of(case, arrays).eval()
    sampler = make({"sde": "consistency", "ode": "flow_map"}[run["type"]], "sampler")
    levels = torch.tensor(run["t_list"], dtype=torch.float64)
    draws = Draws(case["salt"], "fgs:draw")
    x = arrays["latents"].double() * levels[0]
    with torch.no_grad():
        found = sampler(BoundDenoiser(denoiser, {"labels": arrays["class_labels"]}), x, levels, draws)
    assert vectors.relative_error(found, arrays[run["out"]]) < 1e-5
    assert draws.next == run["draws"]


def test_there_are_cases():
    assert cases("cm_samplers") and cases("fastgen_dmd_and_sampler")
