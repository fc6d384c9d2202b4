"""EDM2's recipes: every published number, exactly; and flags that replace a part of one."""

import pytest

from elucid import TrainOptions
from elucid.training.config.options import options_from
from elucid.training.config.presets.edm2 import EDM2_PRESETS

RECIPES = {  # channels, Mi images, peak rate, steps before the rate falls, dropout, P_mean, P_std
    "img512-xxs": (64, 2048, 0.0170, 70000, 0, -0.4, 1.0),
    "img512-xs": (128, 2048, 0.0120, 70000, 0, -0.4, 1.0),
    "img512-s": (192, 2048, 0.0100, 70000, 0, -0.4, 1.0),
    "img512-m": (256, 2048, 0.0090, 70000, 0.10, -0.4, 1.0),
    "img512-l": (320, 1792, 0.0080, 70000, 0.10, -0.4, 1.0),
    "img512-xl": (384, 1280, 0.0070, 70000, 0.10, -0.4, 1.0),
    "img512-xxl": (448, 896, 0.0065, 70000, 0.10, -0.4, 1.0),
    "img64-xs": (128, 1024, 0.0120, 35000, 0, -0.8, 1.6),
    "img64-s": (192, 1024, 0.0100, 35000, 0, -0.8, 1.6),
    "img64-m": (256, 2048, 0.0090, 35000, 0.10, -0.8, 1.6),
    "img64-l": (320, 1024, 0.0080, 35000, 0.10, -0.8, 1.6),
    "img64-xl": (384, 640, 0.0070, 35000, 0.10, -0.8, 1.6),
}


def options_of(preset, **flags):
    return options_from(TrainOptions(preset=preset, data="x.zip", seed=0, **flags).flags())


def test_all_are_there():
    assert set(EDM2_PRESETS) == {f"edm2-{name}" for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    channels, duration, lr, decay, dropout, P_mean, P_std = RECIPES[name]
    options = options_of(f"edm2-{name}")
    assert options["network"] == {"name": "edm2", "model_channels": channels, "dropout": dropout}
    assert options["precond"] == {"name": "edm2"}
    noise = {"P_mean": P_mean, "P_std": P_std}
    assert options["loss"] == {"name": "uncertainty", "base": {"name": "edm", "noise": noise}}
    assert options["optimizer"] == {"name": "adam", "lr": lr, "betas": [0.9, 0.99]}
    schedule = {"name": "inverse_sqrt", "reference_mimg": decay * 2048 / 1e6, "warmup_kimg": 10000}
    assert options["lr_schedule"] == schedule and options["ema"] == {"name": "power", "stds": [0.05, 0.1]}
    loop = options["loop"]
    assert round(loop["duration_mimg"] * 1e6) == duration * 2**20 and loop["batch_size"] == 2048
    assert (loop["precision"], loop["loss_scale"]) == ("fp16", 1) and options["augment"] is None
    assert (loop["tick_kimg"] * 1000, loop["snapshot_ticks"], loop["state_ticks"]) == (2**17, 64, 1024)
    assert options["dataset"]["use_labels"] and not options["dataset"]["xflip"]
    assert options["encoder"]["name"] == ("edm2_vae" if "img512" in name else "rgb")


def test_flags_replace_parts():
    assert options_of("edm2-img64-s", loss="edm")["loss"] == {"name": "edm"}
    assert options_of("edm2-img64-s", precond="edm")["loss"] == {"name": "edm"}
    assert options_of("edm2-img64-s", precond="edm2")["loss"]["base"]["noise"] == {"P_mean": -0.8, "P_std": 1.6}
    assert options_of("edm2-img64-s", ema="1Mi")["ema"] == {"name": "halflife", "halflife_mimg": [1.048576]}
    assert options_of("edm2-img512-s", train_on_latents=False)["encoder"] == {"name": "rgb"}


def test_another_tick_keeps_the_intervals_about_as_they_are():
    loop = options_of("edm2-img64-s", tick=1000)["loop"]
    assert (loop["snapshot_ticks"], loop["state_ticks"]) == (8, 134)
    assert options_of("edm2-img64-s", tick="1Gi")["loop"]["snapshot_ticks"] == 1
