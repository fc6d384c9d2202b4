"""Recipes of one and two steps: published numbers, and options that their parts have."""

from inspect import signature

import pytest

from elucid import TrainOptions
from elucid.training.config.fewstep_presets import FEWSTEP_PRESETS
from elucid.training.config.options import options_from
from elucid.training.config.presets import PRESETS
from elucid.training.noise.schedules import rho_levels
from elucid.training.registry.components import find


def options_of(name, monkeypatch, **flags):
    monkeypatch.setitem(PRESETS, name, FEWSTEP_PRESETS[name])
    return options_from(TrainOptions(preset=name, data="x.zip", seed=0, **flags).flags())


KINDS = {one: one for one in ("loss", "network", "sampler", "schedule")} | {"precond": "preconditioner"}


@pytest.mark.parametrize("name", FEWSTEP_PRESETS)
def test_options_exist(name, monkeypatch):
    options = options_of(name, monkeypatch)
    for part, kind in KINDS.items():
        given = set(options[part]) - {"name"}
        known = signature(find(kind, options[part]["name"])).parameters
        assert given <= set(known), part


@pytest.mark.parametrize(
    ("name", "steps", "batch", "decay", "lr"),
    [
        ("ct-imagenet64", 800_000, 2048, None, 1e-4),
        ("cd-imagenet64", 600_000, None, None, None),
        ("ict-cifar10", 400_000, 1024, 0.99993, 1e-4),
        ("ect-cifar10", 200_000, 128, 0.9999, 1e-4),
    ],
)
def test_published_numbers(name, steps, batch, decay, lr, monkeypatch):
    options = options_of(name, monkeypatch)
    loop = options["loop"]
    assert loop["duration_mimg"] * 1e6 == pytest.approx(steps * loop["batch_size"])
    assert batch in (None, loop["batch_size"]) and lr in (None, options["optimizer"]["lr"])
    (halflife,) = options["ema"]["halflife_mimg"]
    assert decay is None or 0.5 ** (batch / 1e6 / halflife) == pytest.approx(decay, abs=1e-6)
    assert options["optimizer"]["name"] == "radam"


@pytest.mark.parametrize(("name", "points", "place"), [("ct-imagenet64", 201, 106), ("cd-imagenet64", 40, 22)])
def test_levels_of_two_steps(name, points, place, monkeypatch):
    grid = rho_levels(points, 0.002, 80.0)
    found = options_of(name, monkeypatch)["schedule"]["levels"]
    assert found == pytest.approx([float(grid[0]), float(grid[place])], rel=1e-4)
