"""Classifiers of noisy images through the scripts: training, resuming, guidance of every sampler, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import elucid
from elucid.training.config.build import make_denoiser
from elucid.training.registry.names import SAMPLERS
from elucid.training.sampling.output.forms import read_note
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot, save_snapshot
from elucid.training.types import NetSpec
from tests import scripts
from tests.fault.test_resume import assert_same

SHORT = [
    "--augment=0", "--batch=16", "--tick=0.256", "--snap=1", "--dump=1", "--seed=3", "--device=cpu", "--nosubdir",
    "--set=loop.grid_images=0", "--set=lr_schedule.warmup_kimg=0", "--lr=0.01",
    "--arch=ddpmpp", "--cbase=8", "--cres=1,2", "--set=network.num_blocks=1", "--set=network.attn_resolutions=[]",
]  # fmt: skip
AS_CLASSIFIER = ["--cond=1", "--optimizer=adamw", "--set=optimizer.weight_decay=0.05", "--lr_schedule=linear",
                 "--transform=random_crop"]  # fmt: skip

ADM = ["--arch=adm_classifier", "--cbase=32", "--set=network.channels_per_head=32", "--lr=0.002"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set of dark and light pictures of 8x8, and caches of its own."""
    folder = tmp_path_factory.mktemp("classifiers")
    rng = np.random.default_rng(0)
    for index in range(24):
        path = folder / "data" / ("dark", "light")[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        low = 120 * (index % 2)
        Image.fromarray(rng.integers(low, low + 60, (8, 8), dtype=np.uint8)).save(path)
    scripts.run("dataset_tool.py", f"--source={folder / 'data'}", f"--dest={folder / 'data.zip'}")
    return folder


@pytest.fixture(scope="module")
def trained(place):
    """Snapshots by name: denoisers with and without classes, continuous and discrete, and classifiers."""
    runs = {
        "edm": ["--cond=1", "--duration=0.001"],
        "uncond": ["--cond=0", "--duration=0.002"],
        "ddpm": ["--cond=0", "--precond=ddpm", "--duration=0.001"],
        "continuous": [*AS_CLASSIFIER, "--precond=classifier", "--duration=0.002"],
        "discrete": [*AS_CLASSIFIER, "--precond=ddpm_classifier", "--duration=0.002", *ADM],
    }
    found = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("ELUCID_CACHE", str(place / "cache"))
        for name, own in runs.items():
            flags = [f"--data={place / 'data.zip'}", f"--outdir={place / 'runs' / name}", *SHORT, *own]
            assert scripts.exit_code(monkeypatch, "train.py", *flags) == 0, name
            found[name] = scripts.newest(place / "runs" / name)
    others = {
        "cosine": untrained({"name": "ddpm_classifier", "beta_schedule": "cosine"}),
        "others": untrained(names=["cats", "dogs"]),
        "large": untrained(side=16),
        "three": untrained(names=["a", "b", "c"]),
        "latents": untrained(latent=True),
    }
    for name, snapshot in others.items():
        found[name] = place / f"{name}.pkl"
        save_snapshot(found[name], snapshot)
    return found


def untrained(precond="classifier", side=8, names=("dark", "light"), latent=False) -> Snapshot:
    spec = NetSpec((side, side), 1, vector={"labels": len(names)}, latent=latent)
    network = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}
    return Snapshot({"0": make_denoiser(network, precond, spec).eval()}, dataset={"class_names": list(names)})


@pytest.fixture
def call(monkeypatch, capsys, place, tmp_path):
    """Call generate.py into a new folder; gives the exit code, the folder and stderr."""
    monkeypatch.setenv("ELUCID_CACHE", str(place / "cache"))

    def run(network, *flags, out="out"):
        flags = [f"--network={network}", f"--outdir={tmp_path / out}", "--seeds=0-5", "--device=cpu", *flags]
        code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *flags)
        return code, tmp_path / out, err

    return run


def means(folder: Path) -> np.ndarray:
    return np.array([np.asarray(Image.open(path)).mean() for path in sorted(folder.glob("*.png"))])


@pytest.mark.parametrize("name", ["continuous", "discrete"])
def test_a_classifier_learns_and_logs_its_accuracy_by_noise_level(trained, name):
    folder = trained[name].parent
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [f"Loss/accuracy_q{i}" in lines[-1] for i in (1, 2, 3, 4)] == [True] * 4
    last = {key: value["mean"] for key, value in lines[-1].items() if key.startswith("Loss/")}
    assert last["Loss/accuracy_q1"] > 0.95 and 0 < last["Loss/loss"] < 0.6, last
    assert lines[-1]["Optimizer/lr"]["mean"] < 0.001 < lines[0]["Optimizer/lr"]["mean"] <= 0.01, "annealed to zero"
    options = json.loads((folder / "training_options.json").read_text())
    assert options["optimizer"]["weight_decay"] == 0.05 and options["loss"] == {"name": "cross_entropy", "noise": None}
    assert options["transforms"] == [{"name": "random_crop", "min_fraction": 0.8}]
    assert type(load_snapshot(trained[name]).ema).__name__ == {"continuous": "NoisyClassifier"}.get(
        name, "DDPMClassifier"
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_guided(trained, call, sampler):
    """A model without classes makes dark and light pictures as asked."""
    discrete = sampler in ("ddpm", "ddim")
    classifier = trained["discrete" if discrete else "continuous"]
    flags = [f"--classifier={classifier}", "--classifier_scale=3", f"--sampler={sampler}", "--steps=12"]
    found = {}
    for name in ("dark", "light"):
        code, folder, err = call(trained["ddpm" if discrete else "uncond"], *flags, f"--class={name}", out=name)
        assert code == 0, err
        found[name] = means(folder)
        assert {read_note(path)["class"] for path in folder.glob("*.png")} == {["dark", "light"].index(name)}
    assert len(found["dark"]) == 6 and found["dark"].mean() + 10 < found["light"].mean(), found


@pytest.mark.parametrize("model", ["uncond", "ddpm", "edm"])
def test_a_continuous_classifier_fits_every_model(trained, call, model):
    code, folder, err = call(trained[model], f"--classifier={trained['continuous']}", "--steps=4", "--labels")
    assert code == 0, err
    labels = json.loads((folder / "dataset.json").read_text())
    assert labels["class_names"] == ["dark", "light"] and len({kind for _, kind in labels["labels"]}) == 2


def test_it_nests_with_the_other_guidance_and_is_limited(trained, call):
    flags = [f"--classifier={trained['continuous'].parent}", "--steps=4"]
    results = {}
    for name, more in {
        "plain": [],
        "cfg": ["--cfg=2"],
        "auto": ["--cfg=2", f"--guide={trained['uncond']}"],
        "interval": ["--guidance_interval=0.1,20"],
        "off": ["--classifier_scale=0"],
        "nowhere": ["--guidance_interval=200,300"],
    }.items():
        code, folder, err = call(trained["edm"], *flags, *more, out=name)
        assert code == 0, err
        results[name] = means(folder)
    code, folder, _ = call(trained["edm"], "--steps=4", out="without")
    assert np.array_equal(results["off"], means(folder)) and np.array_equal(results["nowhere"], means(folder))
    different = [results[name] for name in ("plain", "cfg", "auto", "interval", "off")]
    assert len({tuple(one) for one in different}) == len(different)


def test_samples_with_another_classifier_are_not_mixed(trained, call):
    flags = [trained["uncond"], f"--classifier={trained['continuous']}", "--steps=2"]
    assert call(*flags)[0] == 0 and call(*flags)[0] == 0
    for more in (["--classifier_scale=2"], [f"--classifier={trained['others']}"]):
        code, _, err = call(*flags, *more)
        assert code == 2 and "other options" in err, err


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("edm", ["--classifier={uncond}"], "contains a EDMPrecond, which generates images; give"),
        ("edm", ["--classifier={large}"], "--classifier: its image size, 16x16, must be the model's, 8x8; choose"),
        ("edm", ["--classifier={three}"], "--classifier: its number of classes, 3, must be the model's, 2; choose"),
        ("edm", ["--classifier={others}"], "--classifier: its class 0 is 'cats', the model's is 'dark'; train it"),
        ("edm", ["--classifier={latents}"], "its kind of images, latents, must be the model's, pixels"),
        ("ddpm", ["--classifier={cosine}"], "--classifier: its noise levels, 1000 from"),
        ("edm", ["--classifier_scale=2"], "--classifier_scale has no effect without a classifier"),
        ("edm", ["--classifier={place}/nothing.pkl"], "nothing.pkl"),
        ("uncond", ["--classifier={continuous}", "--cfg=2"], "--cfg=2: the model was trained without classes"),
        ("uncond", ["--classifier={continuous}", "--class=grey"], "--class=grey is not one of the model's classes"),
        ("uncond", ["--class=dark"], "--class=dark: the model was trained without classes"),
        ("uncond", ["--classifier={continuous}", "--guidance_interval=2,1"], "--guidance_interval=2,1 must be"),
        ("continuous", ["--classifier={continuous}"], "contains a NoisyClassifier, not a denoiser"),
    ],
)
def test_a_wrong_classifier_is_one_line(trained, place, call, model, flags, message):
    flags = [flag.format(place=place, **trained) for flag in flags]
    code, _, err = call(trained[model], *flags, "--steps=2")
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize("precond", ["classifier", "ddpm_classifier"])
def test_training_goes_on_exactly(place, monkeypatch, capsys, precond, tmp_path):
    monkeypatch.setenv("ELUCID_CACHE", str(place / "cache"))

    def train(name, images, *more):
        flags = [f"--data={place / 'data.zip'}", f"--outdir={tmp_path / name}", f"--duration={images / 1e6}", *SHORT]
        flags += [*AS_CLASSIFIER, "--lr_schedule=constant", f"--precond={precond}", "--tick=0.064", *more]
        code, _, err = scripts.call(monkeypatch, capsys, "train.py", *flags)
        assert code == 0, err
        path = scripts.newest(tmp_path / name, "training-state")
        return torch.load(path, weights_only=True), scripts.newest(tmp_path / name).read_bytes()

    whole, snapshot = train("whole", 192)
    train("parts", 128)
    parts, again = train("parts", 192, "--resume=auto")
    assert_same(whole, parts)
    assert snapshot == again
    model = load_snapshot(scripts.newest(tmp_path / "parts")).ema
    with torch.no_grad():
        assert model(torch.zeros(3, 1, 8, 8), torch.tensor([0.1, 1.0, 10.0])).shape == (3, 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cond=0"], "a classifier needs classes; use a dataset with labels and --cond=1"),
        (["--cond=1", "--label_dropout=0.1"], "--label_dropout=0.1: a classifier learns the labels"),
        (["--cond=1", "--loss=edm"], "loss DSM trains denoisers, NoisyClassifier is not one"),
        (["--cond=1", "--precond=edm", "--loss=cross_entropy"], "trains classifiers, EDMPrecond is not one"),
        (["--cond=1", "--set=loss.noise.name=levels"], "needs discrete noise levels, NoisyClassifier has none"),
    ],
)
def test_a_wrong_training_is_one_line(place, monkeypatch, capsys, flags, message, tmp_path):
    flags = ["--precond=classifier", *SHORT, f"--data={place / 'data.zip'}", f"--outdir={tmp_path}", "-n", *flags]
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *flags)
    lines = [line for line in err.strip().splitlines() if not line.startswith("warning")]
    assert code == 2 and len(lines) == 1 and message in lines[0], err


def test_python_and_the_score(trained, place, monkeypatch, capsys):
    model = elucid.load(trained["uncond"], device="cpu")
    options = {"classifier": str(trained["continuous"]), "classifier_scale": 3.0, "steps": 12}
    dark, light = (model.sample(range(4), name, **options).float().mean() for name in ("dark", "light"))
    assert dark + 10 < light
    monkeypatch.setenv("ELUCID_CACHE", str(place / "cache"))
    reference = place / "data.npz"
    made = scripts.call(
        monkeypatch, capsys, "fid.py", "ref", f"--data={place / 'data.zip'}", f"--dest={reference}",
        "--detector=random", "--device=cpu",
    )  # fmt: skip
    assert made[0] == 0, made
    code, out, err = scripts.call(
        monkeypatch, capsys, "fid.py", "calc", f"--network={trained['uncond']}", "--seeds=0-7", f"--ref={reference}",
        "--steps=2", f"--classifier={trained['continuous']}", "--classifier_scale=2", "--json", "--device=cpu",
    )  # fmt: skip
    assert code == 0, err
    about = json.loads(out.strip().splitlines()[-1])
    text = json.dumps(about)
    assert '"classifier": {"name": "classifier", "scale": 2.0' in text and '"snapshot": "' in text
