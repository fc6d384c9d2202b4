"""Models that enlarge images: trained with --lowres, sampled from low-resolution images or behind a base model."""

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import elucid
from elucid.training.data.dataset import open_dataset
from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts
from tests.snapshots import save_random_snapshot, save_random_upsampler


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    coords = {"spatial": {"coords": 2}}
    return {
        "base": save_random_snapshot(folder / "base.pkl", classes=5),
        "gray": save_random_snapshot(folder / "gray.pkl", channels=1, classes=5),
        "plain": save_random_snapshot(folder / "plain.pkl"),
        "few": save_random_snapshot(folder / "few.pkl", classes=3),
        "patch": save_random_snapshot(folder / "patch.pkl", classes=5, **coords),
        "sr": save_random_upsampler(folder / "sr.pkl", classes=5, seed=3),
        "free": save_random_upsampler(folder / "free.pkl", seed=4),
        "four": save_random_upsampler(folder / "four.pkl", factor=4, seed=5),
        "next": save_random_upsampler(folder / "next.pkl", factor=2, seed=6, classes=5, size=32),
        "patched": save_random_upsampler(folder / "patched.pkl", classes=5, seed=7, **coords),
    }


@pytest.fixture
def generate(models, tmp_path, monkeypatch, capsys):
    """generate.py --network=(a name) --outdir=(a name) ...; returns images by file name."""

    def call(model, folder, *flags):
        flags = [flag.format(**models, tmp=tmp_path) for flag in flags]
        args = [f"--network={models[model]}", f"--outdir={tmp_path / folder}", "--device=cpu", *flags]
        code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *args)
        assert code == 0, err
        paths = (tmp_path / folder).rglob("*.png")
        return {path.name: np.array(Image.open(path)) for path in paths}

    return call


def same(some, others) -> bool:
    return some.keys() == others.keys() and all(np.array_equal(some[name], others[name]) for name in some)


def labels_of(folder) -> dict:
    return {name.rpartition("/")[2]: one for name, one in json.loads((folder / "dataset.json").read_text())["labels"]}


@pytest.mark.parametrize("flags", [[], ["--class=kind 3"], ["--cfg=2"], ["--subdirs"]])
def test_both_ways_give_the_same_images(generate, flags, tmp_path):
    seeds = ["--seeds=3-9", "--labels"]
    base = generate("base", "base", *seeds, "--steps=2", *flags)
    behind = generate("base", "behind", *seeds, "--steps=2", "--upsample={sr}", "--upsample_steps=3", *flags)
    again = generate("sr", "again", *seeds, "--steps=3", "--lowres_from={tmp}/base")
    assert {image.shape for image in behind.values()} == {(16, 16, 3)} and len(behind) == len(base) == 7
    assert same(behind, again)
    assert labels_of(tmp_path / "base") == labels_of(tmp_path / "behind") == labels_of(tmp_path / "again")
    assert open_dataset(tmp_path / "behind", use_labels=True).class_names == [f"kind {n}" for n in range(5)]


def test_an_image_depends_on_its_seed_alone(generate):
    flags = ["--steps=2", "--S_churn=2", "--upsample={sr}", "--upsample_steps=2"]
    together = generate("base", "together", "--seeds=0-6", *flags)
    assert len({image.tobytes() for image in together.values()}) == 7
    alone = generate("base", "one by one", "--seeds=6,2,4", "--batch=1", *flags)
    assert all(np.array_equal(together[name], image) for name, image in alone.items())
    assert same(generate("base", "by three", "--seeds=0-6", "--batch=3", *flags), together)


def test_every_option_of_both_counts(generate):
    flags = ["--seeds=0", "--steps=2", "--upsample={sr}"]
    runs = {
        "plain": flags,
        "steps": [*flags, "--upsample_steps=3"],
        "base": [*flags, "--sigma_max=9"],
        "other": ["--seeds=0", "--steps=2", "--upsample={free}"],
        "precision": [*flags, "--precision=bf16"],
    }
    images = {name: generate("base", name, *run)["000000.png"].tobytes() for name, run in runs.items()}
    assert len(set(images.values())) == len(runs)


def test_a_model_without_classes_keeps_those_of_the_base(generate, tmp_path):
    flags = ["--seeds=0-9", "--steps=1", "--labels"]
    generate("base", "base", *flags)
    generate("base", "large", *flags, "--upsample={free}", f"--grid={tmp_path / 'g.png'}", "--grid_classes")
    assert labels_of(tmp_path / "base") == labels_of(tmp_path / "large")
    assert (tmp_path / "g.png").is_file()


def test_three_stages_and_windows_of_the_base(generate):
    generate("base", "base", "--seeds=0-2", "--steps=2")
    made = generate(
        "sr", "large", "--seeds=0-2", "--steps=2", "--lowres_from={tmp}/base", "--upsample={next}", "--upsample_steps=2"
    )
    assert made["000001.png"].shape == (32, 32, 3)
    generate("base", "small", "--seeds=0-2", "--steps=2", "--upsample={sr}", "--upsample_steps=2")
    apart = generate("next", "apart", "--seeds=0-2", "--steps=2", "--lowres_from={tmp}/small")
    assert same(made, apart)
    shifted = generate("patch", "shifted", "--seeds=0", "--steps=2", "--x_start=3", "--upsample={sr}")
    assert not same(shifted, generate("patch", "whole", "--seeds=0", "--steps=2", "--upsample={sr}"))
    assert generate("base", "patched", "--seeds=0", "--steps=2", "--upsample={patched}")["000000.png"].shape[0] == 16


def pictures(folder, names, size=8, mode="RGB"):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shape = (size, size, 3) if mode == "RGB" else (size, size)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    return folder


def test_images_of_ones_own(generate, tmp_path):
    """Names that are not numbers go by their order, a single image serves all seeds, and folders are classes."""
    pictures(tmp_path / "own", ["kind 2/x.png", "kind 1/b.png", "kind 1/a.png", "kind 1/c.png"])
    flags = ["--steps=2", "--labels"]
    four = generate("sr", "out", "--seeds=0-3", "--lowres_from={tmp}/own", *flags)
    assert labels_of(tmp_path / "out") == {f"00000{n}.png": one for n, one in enumerate((1, 1, 1, 2))}
    given = generate("sr", "given", "--seeds=1-2", "--lowres_from={tmp}/own", "--class=4", *flags)
    assert set(labels_of(tmp_path / "given").values()) == {4} and not same(given, four)

    with zipfile.ZipFile(tmp_path / "numbers.zip", "w") as archive:
        for name, number in (("a", 7), ("c", 5), ("b", 0)):
            archive.write(tmp_path / f"own/kind 1/{name}.png", f"00000/img{number:08d}.png")
    by_number = generate("free", "numbers", "--seeds=0,5,7", "--steps=2", "--lowres_from={tmp}/numbers.zip")
    one = {}
    for name, number in (("a", 7), ("c", 5), ("b", 0)):
        folder = pictures(tmp_path / name, [])
        (folder / "one.png").write_bytes((tmp_path / f"own/kind 1/{name}.png").read_bytes())
        one |= generate("free", f"with {name}", f"--seeds={number}", "--steps=2", f"--lowres_from={folder}")
    assert same(by_number, one)
    several = generate("free", "several", "--seeds=0-3", "--steps=2", "--lowres_from={tmp}/a")
    assert len({image.tobytes() for image in several.values()}) == 4


@pytest.mark.parametrize(
    ("model", "flags", "words"),
    [
        ("sr", [], "the model enlarges images, and has none; give --lowres_from=FOLDER"),
        ("base", ["--lowres_from={tmp}/rgb"], "trained without --lowres; leave --lowres_from out"),
        ("base", ["--upsample={plain}"], "plain.pkl was trained without --lowres"),
        ("base", ["--upsample_steps=3"], "--upsample_steps are those of the model of --upsample"),
        ("base", ["--upsample={next}"], "enlarges 16x16 to 32x32, but the base model makes 8x8"),
        ("gray", ["--upsample={sr}"], "enlarges images of 3 channels, but the base model makes 1"),
        ("few", ["--upsample={sr}"], "has 5 classes, but the base model has 3 classes"),
        ("plain", ["--upsample={sr}"], "has 5 classes, but the base model has no classes"),
        ("base", ["--upsample={tmp}/nothing.pkl"], "nothing.pkl"),
        ("sr", ["--lowres_from={tmp}/large"], "has images of 16x16, but the model enlarges 8x8 to 16x16"),
        ("sr", ["--lowres_from={tmp}/mono"], "has gray images, but the model takes RGB; convert them with"),
        ("sr", ["--lowres_from={tmp}/rgb", "--seeds=1-3"], "has 3 images, of seeds 0 to 2, and none for seed 3"),
        ("sr", ["--lowres_from={tmp}/nothing"], "no such file or folder"),
        ("base", ["--upsample={sr}", "--invert={tmp}/rgb"], "--invert: models that enlarge images are not inverted"),
        ("patched", ["--lowres_from={tmp}/rgb", "--x_start=4"], "a model that enlarges images has no windows"),
    ],
)
def test_bad_input_is_one_line(models, tmp_path, monkeypatch, capsys, model, flags, words):
    pictures(tmp_path / "rgb", ["000000.png", "000001.png", "000002.png"])
    pictures(tmp_path / "large", ["000000.png"], size=16)
    pictures(tmp_path / "mono", ["000000.png"], mode="L")
    flags = [flag.format(**models, tmp=tmp_path) for flag in ["--seeds=0", *flags]]
    args = [f"--network={models[model]}", f"--outdir={tmp_path / 'out'}", "--device=cpu", *flags]
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *args)
    assert code == 2 and err.count("\n") == 1 and err.startswith("error: ") and words in err, err


def test_the_folder_is_of_its_low_resolution_images(generate, models, tmp_path, monkeypatch, capsys):
    pictures(tmp_path / "own", ["a.png", "b.png"])
    generate("free", "out", "--seeds=0,1", "--steps=1", "--lowres_from={tmp}/own")
    generate("free", "out", "--seeds=0,1", "--steps=1", "--lowres_from={tmp}/own")
    pictures(tmp_path / "own", ["b.png"])
    args = [f"--network={models['free']}", f"--outdir={tmp_path / 'out'}", "--device=cpu", "--seeds=0", "--steps=1"]
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *args, f"--lowres_from={tmp_path / 'own'}")
    assert code == 2 and "--overwrite" in err


@pytest.mark.parametrize(
    ("flags", "maps", "vector"),
    [
        ([], {"lowres": 1}, {"labels": 10, "augment": 9}),
        (["--lowres_noise=0.1", "--xflip=1"], {"lowres": 1}, {"labels": 10, "augment": 9, "lowres_noise": 1}),
        (["--loss=patch(cdm(edm))", "--martingale_steps=2"], {"lowres": 1, "coords": 2}, {"labels": 10, "augment": 9}),
        (["--precond=ddpm", "--augment=0"], {"lowres": 1}, {"labels": 10}),
    ],
)
def test_training(flags, maps, vector, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    short = ["--duration=0.00008", "--batch=8", "--tick=0.04", "--cond=1", "--label_dropout=0.1", "--nosubdir"]
    args = [f"--data={digits}", f"--outdir={tmp_path / 'run'}", *short, *scripts.TINY, "--lowres=2", *flags]
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *args)
    assert code == 0, err
    snapshot = load_snapshot(tmp_path / "run")
    assert snapshot.ema.spec.spatial == maps and snapshot.ema.spec.vector == vector
    assert snapshot.options["lowres"]["factor"] == 2
    assert np.array(Image.open(scripts.newest(tmp_path / "run", "samples"))).std() > 10  # of real digits, made smaller
    pictures(tmp_path / "own", ["a.png", "b.png"], mode="L")
    steps = {} if "--precond=ddpm" in flags else {"steps": 2}
    options = {"classes": 3, "guidance": 1.5, "lowres_from": tmp_path / "own", **steps}
    if "--precond=ddpm" in flags:
        options["respacing"] = "3"
    images = elucid.load(tmp_path / "run", device="cpu").sample([0, 1], **options)
    assert images.shape == (2, 1, 16, 16) and not torch.equal(images[0], images[1])
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", f"--resume={tmp_path / 'run'}", "--lowres=4")
    assert code == 2 and "lowres.factor is 2 in the run to be resumed, not 4" in err


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.zip"
    elucid.datasets.prepare("builtin:digits-test", path, max_images=40)
    return path
