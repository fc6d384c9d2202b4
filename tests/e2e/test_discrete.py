"""A DDPM from training to samples, inversion and likelihood, by the commands."""

import json

import numpy as np
import pytest
from PIL import Image

from elucid.evaluation.results import load_result
from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts
from tests.snapshots import save_random_snapshot
from tests.vaes import save_pictures

TRAIN = [*scripts.TINY, "--cond=1", "--batch=8", "--duration=0.0001", "--augment=0", "--nosubdir"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data and a run of DDPM with a learned variance."""
    folder = tmp_path_factory.mktemp("discrete")
    data = save_pictures(folder / "pictures.zip", count=12, size=8)
    flags = ["--precond=ddpm", "--beta_schedule=cosine", "--diffusion_steps=100", "--learn_sigma=1"]
    scripts.run("train.py", *TRAIN, *flags, f"--data={data}", f"--outdir={folder / 'run'}")
    return folder


def call(monkeypatch, capsys, script, *args):
    code, out, err = scripts.call(monkeypatch, capsys, script, *args, "--device=cpu")
    assert code == 0, err
    return out.splitlines()


def test_the_run_says_what_it_is(place):
    snapshot = load_snapshot(place / "run")
    assert snapshot.options["precond"]["diffusion_steps"] == 100 and snapshot.options["loss"]["name"] == "hybrid"
    assert snapshot.sampler["name"] == "ddpm" and snapshot.schedule["name"] == "respaced"
    assert snapshot.ema.variance == "learned" and snapshot.ema.spec.out_channels == 6
    assert list((place / "run").glob("samples-*.png"))  # drawn in few steps of ddim


@pytest.mark.parametrize(
    "flags",
    [
        ["--steps=5"],
        ["--respacing=3,2", "--variance=small"],
        ["--variance=large", "--steps=3", "--set", "sampler.noise_scale=0.9"],
        ["--sampler=ddim", "--timestep_respacing=ddim10", "--eta=0.5"],
        ["--sampler=ddim", "--steps=4", "--cfg=1.5", "--threshold=0.99"],
        ["--sampler=edm", "--steps=3", "--clip=0"],
        ["--sampler=dpmpp2m", "--steps=3"],
        ["--sampler=sde", "--steps=3"],
    ],
    ids=" ".join,
)
def test_every_sampler(place, tmp_path, monkeypatch, capsys, flags):
    wanted = [f"--network={place / 'run'}", "--seeds=0-2", f"--outdir={tmp_path}"]
    call(monkeypatch, capsys, "generate.py", *wanted, *flags)
    images = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("*.png"))]
    assert len(images) == 3 and all(image.shape == (8, 8, 3) for image in images)


def test_an_edm_model_samples_with_ddim_and_ddpm(tmp_path, monkeypatch, capsys):
    network = save_random_snapshot(tmp_path / "model.pkl")
    for sampler in ("ddim", "ddpm"):
        out = tmp_path / sampler
        call(monkeypatch, capsys, "generate.py", f"--network={network}", "--seeds=0-1", f"--outdir={out}",
             f"--sampler={sampler}", "--respacing=5")  # fmt: skip
        assert len(list(out.glob("*.png"))) == 2


def test_inversion(place, tmp_path, monkeypatch, capsys):
    wanted = [f"--network={place / 'run'}", f"--invert={place / 'pictures.zip'}", "--steps=50"]
    (line,) = call(monkeypatch, capsys, "generate.py", *wanted, f"--outdir={tmp_path}")
    assert "12 images inverted" in line and len(list(tmp_path.glob("*.png"))) == 12
    with np.load(tmp_path / "latents.npz") as found:
        assert found["latents"].shape == (12, 3, 8, 8) and len(found["names"]) == 12
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *wanted, "--outdir=x", "--sampler=edm")
    assert code == 2 and "sampler=edm cannot be inverted" in err


def test_likelihood(place, tmp_path, monkeypatch, capsys):
    wanted = ["nll", f"--network={place / 'run'}", f"--data={place / 'pictures.zip'}"]
    lines = call(monkeypatch, capsys, "evaluate.py", *wanted, "--respacing=20")
    value = float(lines[-1])
    assert 0 < value < 100 and "95 % interval" in lines[-2]
    lines = call(
        monkeypatch,
        capsys,
        "evaluate.py",
        *wanted,
        "--respacing=20",
        "--json",
        "--batch=5",
        f"--dest={tmp_path}/nll.json",
    )
    result = json.loads(lines[-1])
    saved = load_result(tmp_path / "nll.json")
    assert saved.value == result["value"] and saved.tables[0].rows[-1] == ("total", result["value"])
    assert len(saved.curves[0].series[0].points) == 19 and (tmp_path / "nll-1.svg").is_file()
    assert result["value"] == pytest.approx(value, rel=1e-4)
    assert result["value"] == pytest.approx(result["prior"] + sum(result["steps"]), rel=1e-6)
    assert len(result["steps"]) == 20
    # Models with continuous noise levels are measured on the linear process.
    network = save_random_snapshot(tmp_path / "model.pkl")
    lines = call(monkeypatch, capsys, "evaluate.py", "nll", f"--network={network}", *wanted[2:], "--respacing=10")
    assert float(lines[-1]) > 0
