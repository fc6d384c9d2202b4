"""Recipes of one and two steps: published numbers, and options that their parts have."""

from inspect import signature

import pytest

from elucid import TrainOptions
from elucid.training.config.build import build
from elucid.training.config.options import options_from
from elucid.training.config.presets.fewstep import FEWSTEP_PRESETS
from elucid.training.config.presets.table import PRESETS
from elucid.training.noise.schedules import rho_levels
from elucid.training.registry.components import find, make
from elucid.training.types import NetSpec

TAUGHT = ("cd", "tcm", "scd", "dmd2")


def options_of(name, **flags):
    assert PRESETS[name] is FEWSTEP_PRESETS[name]
    if name.startswith(TAUGHT):
        flags["teacher"] = "teacher.pkl"
    return options_from(TrainOptions(preset=name, data="x.zip", seed=0, **flags).flags())


KINDS = {one: one for one in ("loss", "network", "sampler", "schedule")} | {"precond": "preconditioner"}


@pytest.mark.parametrize("name", FEWSTEP_PRESETS)
def test_options_exist(name):
    options = options_of(name)
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
        ("ict-imagenet64", 800_000, 4096, 0.99997, 1e-4),
        ("ect-cifar10", 200_000, 128, 0.9999, 1e-4),
        ("tcm-cifar10", None, None, None, 5e-5),
        ("imm-cifar10", None, 4096, None, 1e-4),
    ],
)
def test_published_numbers(name, steps, batch, decay, lr):
    options = options_of(name)
    loop = options["loop"]
    assert steps is None or loop["duration_mimg"] * 1e6 == pytest.approx(steps * loop["batch_size"])
    assert batch in (None, loop["batch_size"]) and lr in (None, options["optimizer"]["lr"])
    (halflife,) = options["ema"]["halflife_mimg"]
    assert decay is None or 0.5 ** (batch / 1e6 / halflife) == pytest.approx(decay, abs=1e-6)
    assert options["optimizer"]["name"] == "radam"


@pytest.mark.parametrize(("name", "points", "place"), [("ct-imagenet64", 201, 106), ("cd-imagenet64", 40, 22)])
def test_levels_of_two_steps(name, points, place):
    grid = rho_levels(points, 0.002, 80.0)
    found = options_of(name)["schedule"]["levels"]
    assert found == pytest.approx([float(grid[0]), float(grid[place])], rel=1e-4)


@pytest.mark.parametrize("name", FEWSTEP_PRESETS)
def test_it_can_be_built(name):
    latent, side = "512" in name or "256" in name, 32 if "256" in name or "cifar" in name else 64
    options = options_of(name)
    options["encoder"] = {"name": "rgb"}
    options["augment"] = options["augment"] and {"name": "edm", "p": 0.12}
    vector = {"labels": 1000 if options["dataset"]["use_labels"] else 0}
    parts = build(options, NetSpec((side, side), 4 if latent else 3, vector=vector), weights=False)
    assert sum(one.numel() for one in parts.denoiser.parameters()) > 3e7


def test_mean_flow_as_published():
    cifar = options_of("mean_flow-cifar10")
    assert (
        cifar["loop"]["duration_mimg"] == pytest.approx(800, rel=1e-5) and cifar["lr_schedule"]["warmup_kimg"] == 10_000
    )
    assert cifar["optimizer"]["lr"] == 6e-4 and cifar["loss"]["tr_sampler"] == "v1"
    loss = make(cifar["loss"], "loss")
    assert (loss.norm_p, loss.norm_eps, loss.pairs.ratio) == (0.75, 1e-3, 0.75)
    image = make(options_of("mean_flow-imagenet256-xl-2")["loss"], "loss")
    assert (image.norm_p, image.norm_eps, image.pairs.ratio) == (1.0, 0.01, 0.25)


def test_dmd2_as_published():
    options = options_of("dmd2-imagenet64")
    loop = options["loop"]
    assert (loop["batch_size"], loop["precision"], options["optimizer"]["lr"]) == (280, "bf16", 2e-6)
    assert loop["duration_mimg"] == 200_000 * 280 / 1e6
