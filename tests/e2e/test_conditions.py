"""Maps and vectors of labels as conditions: training, guidance, samples for each condition."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.training.snapshots.snapshot import load_snapshot, save_snapshot
from tests import scripts
from tests.fault.trials import differences

TRAIN = [*scripts.TINY, "--augment=0.1", "--batch=8", "--duration=0.000064", "--tick=0.032", "--nosubdir"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of 8x8 whose maps are their left halves, and vectors of labels."""
    path, rng = tmp_path_factory.mktemp("conditions"), np.random.default_rng(0)
    for name in ("pictures", "maps", "small"):
        (path / name).mkdir()
    labels = []
    for index in range(16):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"pictures/{index:02d}.png")
        np.save(path / f"maps/{index:02d}.npy", np.stack([pixels, pixels // 2]).astype(np.float32))
        np.save(path / f"small/{index:02d}.npy", pixels[None, ::2, ::2].astype(np.float32))
        labels.append([f"{index:02d}.png", rng.normal(size=3).tolist()])
    (path / "pictures/dataset.json").write_text(json.dumps({"labels": labels}))
    return path


@pytest.fixture
def call(folder, monkeypatch, capsys):
    return scripts.caller(folder, monkeypatch, capsys)


@pytest.fixture
def run(folder, call):
    """A run with maps and vectors of labels, both dropped now and then."""
    if not (folder / "run").exists():
        dropped = ["--cond_images=maps", "--cond_dropout=0.2", "--cond=1", "--label_dropout=0.2", "--xflip=1"]
        call("train.py", "--data=pictures", "--outdir=run", *TRAIN, *dropped)
        np.save(folder / "vectors.npy", np.random.default_rng(1).normal(size=(16, 3)))
    return folder / "run"


def samples(folder, name):
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / name).glob("*.png"))])


def test_the_loss_of_held_out_images_with_their_maps(folder, call):
    """The same images with the same maps have the same loss, with the maps of others another."""
    (folder / "others").mkdir()
    for index in range(16):
        shutil.copy(folder / f"maps/{15 - index:02d}.npy", folder / f"others/{index:02d}.npy")
    flags = ["--data=pictures", *TRAIN, "--cond_images=maps", "--lr=0.02", "--set=lr_schedule.warmup_kimg=0"]
    for maps in ("maps", "others"):
        call("train.py", *flags, f"--outdir=held-{maps}", "--heldout=pictures", f"--heldout_cond_images={maps}")
        line = json.loads((folder / f"held-{maps}/stats.jsonl").read_text().splitlines()[-1])
        same = line["Heldout/loss"]["mean"] == line["Heldout/train_loss"]["mean"]
        assert same is (maps == "maps"), line
    said = call("train.py", *flags, "--outdir=x", "--heldout=pictures", code=2)
    assert "`--heldout_cond_images`" in said or "--heldout_cond_images" in said
    assert "give both" in call("train.py", *flags, "--outdir=x", "--heldout_cond_images=maps", code=2)
    wrong = ["--heldout=pictures", "--heldout_cond_images=pictures"]
    assert "1 channels" in call("train.py", *flags, "--outdir=x", *wrong, code=2)
    assert not (folder / "x").exists()


def test_samples_of_each_condition(run, call, folder):
    flags = ["--network=run", "--steps=2", "--device=cpu", "--cond_labels=vectors.npy", "--guidance=1.5"]
    call("generate.py", *flags, "--outdir=out", "--seeds=0-47", "--cond_images=maps", "--members=3")
    first = samples(folder, "out")
    call("generate.py", *flags, "--outdir=some", "--seeds=9-11", "--cond_images=maps", "--members=3")
    assert np.array_equal(samples(folder, "some"), first[9:12]), "a sample depends on its seed and condition alone"
    np.save(folder / "one.npy", np.load(folder / "vectors.npy")[3])
    one = [flag for flag in flags if not flag.startswith("--cond_labels")]
    call("generate.py", *one, "--outdir=single", "--seeds=9-11", "--cond_images=maps/03.npy", "--cond_labels=one.npy")
    assert np.array_equal(samples(folder, "single"), first[9:12]), "one condition serves all seeds"


def test_guidance_leaves_out_what_training_dropped(run, call, folder):
    given = ["--network=run", "--steps=2", "--device=cpu", "--cond_labels=vectors.npy", "--cond_images=maps"]
    seen = {}
    for name, more in (("both", []), ("maps", ['--set=guidance.drop=["cond_images"]']), ("none", ["--guidance=1"])):
        call("generate.py", *given, f"--outdir=drop-{name}", "--seeds=0-3", "--guidance=3", *more)
        seen[name] = samples(folder, f"drop-{name}")
    assert len({image.tobytes() for image in seen.values()}) == 3
    assert "guidance.drop=classes" in call("generate.py", *given, "--outdir=x", "--guidance=3",
                                           '--set=guidance.drop=["classes"]', code=2)  # fmt: skip


def test_a_field_of_less_resolution(call, folder):
    train = ["--data=pictures", "--outdir=downscaling", *TRAIN, "--cond_images=small"]
    assert "--cond_enlarge=1" in call("train.py", *train, code=2)
    call("train.py", *train, "--cond_enlarge=1")
    call("generate.py", "--network=downscaling", "--outdir=large", "--seeds=0-15", "--steps=2", "--cond_images=small",
         "--device=cpu")  # fmt: skip
    assert samples(folder, "large").shape == (16, 8, 8)


def test_a_run_with_maps_goes_on_bit_by_bit(call, folder):
    call(
        "train.py", "--data=pictures", *TRAIN, "--cond_images=maps", "--cond_dropout=0.5", "--dump=1", "--outdir=whole"
    )
    states = sorted((folder / "whole").glob("training-state-*.pt"))
    end = torch.load(states[-1], weights_only=True)
    states[-1].unlink()
    call("train.py", f"--resume={states[0]}", "--device=cpu")
    again = torch.load(states[-1], weights_only=True)
    assert not [line for line in differences(end, again) if "elapsed" not in line and "stats" not in line]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "--cond_images"),
        (["--cond_images=maps"], "--cond_labels"),
        (["--cond_images=pictures", "--cond_labels=vectors.npy"], "1 channels"),
        (["--cond_images=maps", "--cond_labels=vectors.npy", "--seeds=0-99"], "--seeds"),
        (["--cond_images=nowhere", "--cond_labels=vectors.npy"], "nowhere"),
        (["--cond_images=maps", "--cond_labels=wide.npy"], "[N,3]"),
        (["--cond_images=maps", "--cond_labels=nan.npy"], "row 1"),
        (["--cond_images=maps", "--cond_labels=vectors.npy", "--members=0"], "--members"),
    ],
)
def test_conditions_that_do_not_fit(run, call, folder, flags, named):
    np.save(folder / "wide.npy", np.zeros((16, 4)))
    np.save(folder / "nan.npy", np.array([[0, 0, 0], [0, np.nan, 0]]))
    said = call("generate.py", "--network=run", "--outdir=bad", "--device=cpu", *flags, code=2)
    assert named in said.strip().splitlines()[-1]
    assert not (folder / "bad").exists()


def test_maps_that_are_missing(call, folder, tmp_path):
    (tmp_path / "few").mkdir()
    for index in range(15):
        np.save(tmp_path / f"few/{index:02d}.npy", np.zeros((1, 8, 8), np.float32))
    said = call("train.py", "--data=pictures", "--outdir=none", *TRAIN, f"--cond_images={tmp_path}/few", code=2)
    assert "pictures/15" in said and "no map" in said
    assert "--cond_dropout" in call("train.py", "--data=pictures", "--outdir=none", "--cond_dropout=0.1", code=2)


def test_arrays_are_enlarged_like_pictures(call, folder):
    fields = np.random.default_rng(4).normal(size=(16, 2, 8, 8)).astype(np.float32)
    np.save(folder / "fields.npy", fields)
    call("dataset_tool.py", "--source=fields.npy", "--dest=fields.zip")
    np.save(folder / "low.npy", fields.reshape(16, 2, 4, 2, 4, 2).mean((3, 5)))
    call("dataset_tool.py", "--source=low.npy", "--dest=low.zip")
    call("train.py", "--data=fields.zip", "--outdir=enlarges", "--lowres=2", *TRAIN[:-1], "--nosubdir", "--augment=0")
    call("generate.py", "--network=enlarges", "--outdir=enlarged", "--seeds=0-3", "--steps=2", "--lowres_from=low.zip",
         "--device=cpu")  # fmt: skip
    assert np.load(folder / "enlarged/000002.npy").shape == (2, 8, 8)
    said = call("generate.py", "--network=enlarges", "--outdir=x", "--lowres_from=pictures", "--device=cpu", code=2)
    assert "has pictures, but the model enlarges arrays" in said


def test_code_that_a_snapshot_names_for_its_maps_is_not_run(run, call, folder):
    (folder / "strange.py").write_text(
        "from pathlib import Path\nPath('ran').write_text('')\n"
        "from elucid.training.encoders.rgb import RGB\nclass Own(RGB):\n    pass\n"
    )
    snapshot = load_snapshot(scripts.newest(run))
    snapshot.options["maps"]["encoder"] = {"name": "strange.py:Own"}
    save_snapshot(folder / "network-snapshot-strange.pkl", snapshot)
    flags = ["--network=network-snapshot-strange.pkl", "--outdir=x", "--cond_images=maps", "--cond_labels=vectors.npy"]
    said = call("generate.py", *flags, "--device=cpu", code=2)
    assert "strange.py:Own" in said and not (folder / "ran").exists()
