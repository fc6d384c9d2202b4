"""Consistency tuning in the two-dimensional laboratory comes near the exact map."""

import torch

from benchmarks import fewstep_toy
from benchmarks.fewstep_toy import SIGMA, Laboratory, energy, once
from elucid.evaluation.toy.densities import density
from elucid.evaluation.toy.flow import flowed
from elucid.evaluation.toy.one_thread import one_thread
from elucid.training.losses.by_level import undisturbed

CPU = torch.device("cpu")


def test_ect_comes_near_the_exact_map(monkeypatch):
    """A smaller network than the benchmark's, a third of the distance of the model called once is left."""
    small = {"network": {"name": "points_mlp", "hidden": 64, "num_layers": 3}}
    monkeypatch.setattr(fewstep_toy, "COMMON", {**fewstep_toy.COMMON, **small})
    monkeypatch.setattr(fewstep_toy, "BATCH", 256)
    monkeypatch.setitem(fewstep_toy.DIFFUSION, "steps", 1200)
    monkeypatch.setitem(fewstep_toy.DIFFUSION, "lr", 2e-2)
    monkeypatch.setitem(fewstep_toy.METHODS, "ect", {**fewstep_toy.METHODS["ect"], "steps": 1500, "lr": 2e-2})
    mixture = density("moons")
    noise = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    true, _ = mixture.sample(500, torch.Generator().manual_seed(2))
    with undisturbed(CPU), one_thread():
        lab, exact = Laboratory(mixture), flowed(mixture, SIGMA * noise, SIGMA)
        found = {name: once(lab.model(name), noise) for name in ("diffusion", "ect")}
    far = {name: float((one - exact).square().sum(1).mean().sqrt()) for name, one in found.items()}
    assert far["ect"] < 0.35 < 0.6 < far["diffusion"], far
    assert energy(found["ect"], true) < 0.25 * energy(found["diffusion"], true)
