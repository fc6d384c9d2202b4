"""Recipes of published transformers: every published number, and that each can be built."""

import pytest

from elucid import TrainOptions
from elucid.training.config.build import build
from elucid.training.config.options import options_from
from elucid.training.config.presets.transformers import TRANSFORMER_PRESETS
from elucid.training.registry.components import make
from elucid.training.registry.public_transformers import GUIDED, SAMPLING
from elucid.training.types import NetSpec

DIT = [f"dit-{size}-{patch}" for size in ("s", "b", "l", "xl") for patch in (2, 4, 8)]
SIT = [f"sit-{size}-2" for size in ("s", "b", "l", "xl")]
JIT = [f"jit-{size}-{patch}" for size in "blhg" for patch in (16, 32)] + ["jit-b-64"]
OTHERS = ["dit-xl-2-512", "sit-xl-2-512", "repa-sit-xl-2", "lightningdit-xl-1-64", "lightningdit-xl-1-800", "ddt-xl-2"]
STEPS = {name: 400_000 for name in DIT + SIT} | {name: 600 * 1_281_167 / 1024 for name in JIT}
STEPS |= {"dit-xl-2": 7e6, "dit-xl-2-512": 3e6, "sit-xl-2": 7e6, "sit-xl-2-512": 3e6, "repa-sit-xl-2": 4e6}
STEPS |= {"ddt-xl-2": 4e6, "lightningdit-xl-1-64": 8e4, "lightningdit-xl-1-800": 1e6}
STEPS |= dict.fromkeys(("jit-g-16", "jit-g-32"), 320 * 1_281_167 / 1024)
MILLIONS = {  # of the networks as counted, without fixed tables and REPA's projectors
    "dit-s-2": 32.87, "dit-b-2": 130.32, "dit-l-2": 457.84, "dit-xl-2": 674.83, "sit-s-2": 32.86, "jit-b-16": 131.12,
    "jit-b-32": 133.19, "jit-l-16": 458.88, "jit-h-16": 952.51, "jit-g-32": 2011.56, "jit-b-64": 141.46,
    "repa-sit-xl-2": 674.82, "lightningdit-xl-1-64": 674.96, "ddt-xl-2": 674.65,
}  # fmt: skip


def options_of(preset, **flags):
    return options_from(TrainOptions(preset=preset, data="x.zip", seed=0, **flags).flags())


def test_all_are_there():
    assert sorted(TRANSFORMER_PRESETS) == sorted(DIT + SIT + JIT + OTHERS)


@pytest.mark.parametrize("name", TRANSFORMER_PRESETS)
def test_recipe(name):
    options, family = options_of(name), name.partition("-")[0]
    loop, loss, optimizer = options["loop"], options["loss"], options["optimizer"]
    batch = 1024 if family in ("jit", "lightningdit") else 256
    assert loop["batch_size"] == batch and loop["duration_mimg"] * 1e6 == pytest.approx(STEPS[name] * batch)
    assert optimizer["lr"] == (2e-4 if batch == 1024 else 1e-4)
    assert optimizer.get("betas") == (None if family in ("dit", "sit", "repa") else [0.9, 0.95])  # None: 0.9, 0.999
    decays = [0.5 ** (batch / 1e6 / halflife) for halflife in options["ema"]["halflife_mimg"]]
    assert decays == pytest.approx([0.9999, 0.9996] if family == "jit" else [0.9999], abs=1e-6)
    assert options["dataset"]["label_dropout"] == 0.1 and options["dataset"]["use_labels"]
    assert options["dataset"].get("xflip", False) == (family not in ("repa", "ddt"))
    precision = {"dit": "tf32", "sit": "tf32", "repa": "fp16"}.get(family, "bf16")
    assert (loop["precision"], loop.get("max_grad_norm")) == (precision, 1.0 if family == "repa" else None)
    assert options["lr_schedule"] == {"name": "constant", "warmup_kimg": 6405.835 if family == "jit" else 0}
    assert options["augment"] is None
    encoder = {"name": "rgb"} if family == "jit" else {"name": "vae", "scale": 0.18215}
    assert options["encoder"] == ({"name": "vae", "final_std": 1.0} if family == "lightningdit" else encoder)
    sampler, schedule = SAMPLING[family]
    steps = {name: str(value) for name, value in options["schedule"].items() if name == "respacing"}
    assert (options["sampler"], options["schedule"] | steps) == (sampler, schedule)
    if family == "dit":
        assert (options["precond"], loss) == ({"name": "ddpm"}, {"name": "hybrid"})
        return
    assert options["precond"].pop("time", "noise") == ("noise" if family == "repa" else "data")
    if family == "jit":
        assert options["precond"] == {"name": "flow", "prediction": "x", "noise_scale": int(name.split("-")[2]) / 16}
        noise = {"name": "logit_normal", "P_mean": 0.8, "P_std": 0.8}
        assert loss == {"name": "flow", "clamp": 0.05, "mean": True, "noise": noise}
        return
    base = {"name": "flow", "mean": True}
    base |= {"noise": {"name": "logit_normal"}} if family in ("lightningdit", "ddt") else {}
    base |= {"cosine": 1.0} if family == "lightningdit" else {}
    wrapped = {"name": "alignment", "layer": "block8", "weight": 0.5, "features": {"name": "dinov2"}, "base": base}
    assert options["precond"] == {"name": "flow"} and loss == (wrapped if family in ("repa", "ddt") else base)


@pytest.mark.parametrize("name", [*MILLIONS, "sit-xl-2-512", "dit-xl-2-512"])
def test_the_recipe_can_be_built(name):
    """On the meta device, with the published number of parameters; aligned ones without their encoder."""
    options, family = options_of(name), name.partition("-")[0]
    options["encoder"] = {"name": "rgb"}
    if options["loss"]["name"] == "alignment":
        options["loss"] = options["loss"]["base"]
    patch = options["network"]["patch"]
    side = 16 * patch if name[-3:] != "512" else 64
    channels = {"jit": 3, "lightningdit": 32}.get(family, 4)
    parts = build(options, NetSpec((side, side), channels, channels, vector={"labels": 1000}), weights=False)
    count = sum(parameter.numel() for parameter in parts.denoiser.parameters())
    if family == "sit" and name in MILLIONS:  # whose second half of the outputs is not made here
        count += 16 * 385
    assert count / 1e6 == pytest.approx(MILLIONS.get(name, count / 1e6), abs=0.006)
    assert parts.denoiser.spec.out_channels == channels * (1 + (family == "dit"))


def test_flags_replace_parts():
    options = options_of("sit-b-2", precond="edm")
    assert (options["sampler"], options["schedule"]) == ({"name": "edm"}, {"name": "karras"})
    assert options["loss"] == {"name": "edm"} and options["precond"] == {"name": "edm"}
    assert options_of("repa-sit-xl-2", loss="flow")["loss"] == {"name": "flow"}
    assert options_of("dit-b-4", train_on_latents=False)["encoder"] == {"name": "rgb"}


@pytest.mark.parametrize("name", GUIDED)
def test_published_guidance(name):
    """Each has a preset for training, and an interval and channels that exist."""
    one, bare = GUIDED[name], name.removesuffix("-256").removesuffix("-ode").removesuffix("-sde").removesuffix("-512")
    bare = bare.removesuffix("-256").removesuffix("-512")
    assert bare in TRANSFORMER_PRESETS or bare == "repa-e-sit-xl-1"
    assert one.guidance > 1 and (one.interval_t is None or 0 <= one.interval_t[0] < one.interval_t[1] <= 1)
    assert one.channels == (3 if name.startswith(("dit", "sit", "lightningdit")) else None)
    assert one.sampler is None or make({"name": one.sampler}, "sampler").order == 5
    if name.startswith("jit"):
        assert 0.88 < one.interval_t[1] < 0.9  # without the point of its 50 steps at 0.9, which it leaves out


def test_published_guidance_as_options():
    from elucid import SampleOptions

    options = SampleOptions(preset="lightningdit-xl-1-64")
    assert (options.guidance, options.guidance_interval_t) == (10.0, (0.0, 0.9))
    assert options.set == ["guidance.channels=3"]
    own = SampleOptions(
        preset="lightningdit-xl-1-64", guidance=4, guidance_interval=(0, 2), set={"guidance.channels": 32}
    )
    assert (own.guidance, own.guidance_interval_t) == (4, None) and own.set == {"guidance.channels": 32}
    assert SampleOptions(preset="sit-xl-2-256-ode").sampler == "dopri5"
