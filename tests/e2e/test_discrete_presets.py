"""The presets of discrete models build their networks at their own resolutions, with the published sizes."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from elucid.training.config.presets.discrete import DISCRETE_PRESETS, IMAGES
from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts

MILLIONS = {
    "adm-imagenet-64": 296, "adm-imagenet-128": 422, "adm-imagenet-256": 554, "adm-imagenet-512": 559,
    "adm-imagenet-256-uncond": 553, "adm-lsun-256": 553, "adm-upsample-64-256": 312, "adm-upsample-128-512": 309,
    "adm-classifier-64": 65, "adm-classifier-128": 43, "adm-classifier-256": 54, "adm-classifier-512": 54,
}  # fmt: skip
"""Parameters in the paper's tables, with 1000 classes."""
CLASSES = 1000


def side_of(preset: str) -> int:
    if preset.startswith("ddpm-"):
        return IMAGES[preset.removeprefix("ddpm-")][0]
    sides = [int(word) for word in preset.split("-") if word in ("64", "128", "256", "512")]
    return sides[-1] if sides and preset.startswith("adm-") else 32


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """By side, a folder of pictures of as many classes as ImageNet has; MNIST's are gray."""
    place = tmp_path_factory.mktemp("data")

    def of(side: int, gray: bool):
        folder = place / f"{side}{'gray' if gray else ''}"
        if not folder.exists():
            folder.mkdir()
            picture = np.full((side, side) if gray else (side, side, 3), 9, np.uint8)
            names = [f"{index}.png" for index in range(2)]
            for name in names:
                Image.fromarray(picture).save(folder / name)
            labels = [[name, (CLASSES - 1) * index] for index, name in enumerate(names)]
            (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
        return folder

    return of


@pytest.mark.parametrize("preset", DISCRETE_PRESETS)
def test_a_dry_run_at_its_resolution(preset, data, monkeypatch, capsys):
    flags, folder = DISCRETE_PRESETS[preset], data(side_of(preset), preset == "ddpm-mnist")
    code, out, err = scripts.call(
        monkeypatch, capsys, "train.py", f"--preset={preset}", f"--data={folder}", "--device=cpu", "--dry-run"
    )
    assert code == 0, err
    options = json.JSONDecoder().raw_decode(out[out.index("{") :])[0]
    count = int(out.rpartition("parameters;")[0].split()[-1].replace(",", ""))
    if preset in MILLIONS:
        assert round(count / 1e6) == MILLIONS[preset]
    assert options["loss"]["name"] == (
        "cross_entropy" if "classifier" in preset else "hybrid" if flags.get("learn_sigma") else "simple"
    )
    assert options["precond"]["beta_schedule"] == flags["beta_schedule"]
    assert options["precond"]["diffusion_steps"] == flags["diffusion_steps"]
    assert options["network"]["model_channels"] == flags["cbase"] and options["augment"] is None
    assert options["lr_schedule"]["warmup_kimg"] == 0 and options["optimizer"]["lr"] == flags["lr"]
    assert options["dataset"]["use_labels"] == flags["cond"] and options["loop"]["batch_size"] == flags["batch"]


def test_half_lives_are_the_decays_per_step():
    for preset, decay in (("ddpm-cifar10", 0.9995), ("adm-imagenet-64", 0.9999), ("adm-imagenet-256", 0.9999)):
        flags = DISCRETE_PRESETS[preset]
        assert math.isclose(0.5 ** (flags["batch"] / (flags["ema"][0] * 1e6)), decay, rel_tol=1e-8)
        assert "ema.rampup_ratio=null" in flags["set"]
    assert DISCRETE_PRESETS["ddpm-cifar10"]["duration"] == 25  # 500 epochs of 50,000 images


def test_another_preconditioner_drops_the_process(data, monkeypatch, capsys):
    for preset in ("adm-imagenet-64", "ddpm-afhq"):
        flags = [f"--preset={preset}", f"--data={data(64, False)}", "--precond=edm", "--device=cpu", "--dry-run"]
        code, out, err = scripts.call(monkeypatch, capsys, "train.py", *flags)
        assert code == 0, err
        options = json.JSONDecoder().raw_decode(out[out.index("{") :])[0]
        assert (options["precond"]["name"], options["loss"]["name"]) == ("edm", "edm")
        assert options["schedule"]["name"] == "karras" and options["network"]["name"] == "adm_unet"


def test_a_recipe_trains_and_samples_in_other_numbers_of_steps(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    small = ["--cbase=32", "--set=network.channels_per_head=32", "--set=network.num_blocks=1", "--batch=2"]
    short = ["--duration=0.000004", "--tick=0.002", "--seed=0", "--set=loop.grid_images=0", "--nosubdir"]
    flags = ["--preset=ddpm-mnist", f"--data={data(28, True)}", f"--outdir={tmp_path / 'run'}", "--device=cpu"]
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *flags, *small, *short)
    assert code == 0, err
    schedule = load_snapshot(tmp_path / "run").schedule
    assert schedule["name"] == "respaced" and schedule["respacing"] == "linspace250"
    for index, steps in enumerate((["--steps=2"], ["--respacing=ddim4"], ["--sampler=ddim", "--steps=3"])):
        out = tmp_path / f"out{index}"
        flags = [f"--network={tmp_path / 'run'}", f"--outdir={out}", "--seeds=0", "--device=cpu", *steps]
        code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *flags)
        assert code == 0, err
        with Image.open(out / "000000.png") as image:
            assert (image.size, image.mode) == ((28, 28), "L")
