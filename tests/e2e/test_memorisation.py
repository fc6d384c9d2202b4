"""evaluate.py memorisation: what it prints and writes, and one line for what is wrong."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import elucid
from elucid.evaluation.results import load_result
from tests import scripts
from tests.snapshots import save_random_snapshot


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Folders of real digits: 200 to train on, 150 held out, and 120 samples, of which the first six are copies."""
    folder = tmp_path_factory.mktemp("digits")
    images = (load_digits().images / 16 * 255).round().astype(np.uint8)
    sets = {"train": images[:200], "test": images[200:350], "samples": np.concatenate([images[:6], images[400:514]])}
    for name, part in sets.items():
        (folder / name).mkdir()
        for index, image in enumerate(part):
            Image.fromarray(image).save(folder / name / f"{index:03d}.png")
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*args, code=0):
        found, out, err = scripts.call(monkeypatch, capsys, "evaluate.py", "memorisation", *args, "--device=cpu")
        assert found == code, err
        return err if code else out

    return call


@pytest.fixture
def measure(call, digits):
    return partial(call, f"--train={digits}/train", f"--test={digits}/test", "--detector=pixels")


def test_tables_sheet_and_number(measure, digits, tmp_path):
    out = measure(f"--images={digits}/samples", f"--dest={tmp_path}/new/memo.json", "--cells=2", "--rows=8")
    result = load_result(tmp_path / "new/memo.json")
    assert float(out.splitlines()[-1]) == pytest.approx(result.value, rel=1e-5)
    assert result.text() == "\n".join(out.splitlines()[:-1]) and "6 of 120 samples are the same as a training" in out
    measures, control = result.tables
    kinds = [kind for kind in ("exact", "noise", "shift", "mirror") for _ in range(3)]
    assert [row[0] for row in control.rows] == ["none", *kinds]
    assert [row[:2] for row in control.rows[:4]] == [("none", 0), ("exact", 1), ("exact", 6), ("exact", 24)]
    assert control.rows[0][3] == measures.rows[0][1] == result.value
    assert len(measures.rows) == 5 and len(result.curves[0].series) == 2
    with Image.open(tmp_path / "new" / result.pictures[0].file) as sheet:
        pixels = np.asarray(sheet).copy()
    first = np.asarray(Image.open(digits / "samples/000.png"))
    shown = pixels[28 : 28 + 96 : 12, 6 : 6 + 96 : 12, 0]
    assert any(np.array_equal(shown, np.asarray(Image.open(digits / f"train/{index:03d}.png"))) for index in range(6))
    assert first.shape == shown.shape and result.about["images"].endswith("samples")
    assert result.about["detector"] == "pixels" and len(result.about["data_sha256"]) == 64


def test_batches_change_nothing(measure, digits):
    results = [
        json.loads(measure(f"--images={digits}/samples", f"--batch={batch}", "--json").splitlines()[-1])
        for batch in (7, 64)
    ]
    assert results[0] == results[1]


def test_samples_of_a_network(measure, tmp_path):
    snapshot = save_random_snapshot(tmp_path / "snapshot.pkl", channels=1, classes=3)
    flags = [f"--network={snapshot}", "--seeds=0-29", "--steps=1", f"--dest={tmp_path}/memo.json", "--rows=3"]
    result = json.loads(measure(*flags, "--detector=random", "--json").splitlines()[-1])
    assert result["about"]["seeds"] == "0-29" and result["about"]["samples"] == 30
    assert (tmp_path / "memo.png").is_file() and result["about"]["detector"] == "random"


def test_in_python(digits):
    result = elucid.memorisation(
        digits / "train", digits / "test", digits / "samples", detector="random", num=50, neighbours=2, device="cpu"
    )
    assert result.kind == "memorisation" and result.about["samples"] == 50 and not result.pictures
    with pytest.raises(elucid.UserError, match="one of them"):
        elucid.memorisation(digits / "train", digits / "test")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--images={}/samples", "--dest={}/memo.txt"], "must end in .json"),
        (["--images={}/samples", "--dest={}/train"], "must end in .json"),
        (["--images={}/samples", "--dest={}/train/000.png/memo.json"], "cannot be written"),
        (["--images={}/samples", "--neighbours=200"], "--neighbours=200 must be from 1"),
        (["--images={}/samples", "--cells=201"], "--cells=201 exceeds the 200 training images"),
        (["--images={}/samples", "--num=121"], "has 120 images, fewer than --num=121"),
        (["--images={}/samples", "--num=19"], "19 samples images are too few"),
        (["--images={}/large"], "the samples images are 9x9 with 1 channels, the training images 8x8"),
        (["--images={}/empty"], "contains no images"),
        (["--images={}/samples", "--train={}/gray"], "all 30 images are the same one"),
        (["--images={}/samples", "--detector=pixel"], "pixels"),
        (["--images={}/samples", "--steps=3"], "--steps is for sampling"),
        ([], "give --images"),
    ],
)
def test_mistakes(measure, digits, tmp_path, flags, said):
    for name, size, count in (("large", 9, 30), ("gray", 8, 30), ("empty", 8, 0)):
        (digits / name).mkdir(exist_ok=True)
        for index in range(count):
            Image.new("L", (size, size), 7).save(digits / name / f"{index}.png")
    err = measure(*(flag.format(digits) for flag in flags), code=2)
    assert said in err.replace("\n", " ") and len(err.strip().splitlines()) <= 4
    assert not list(digits.glob("memo*"))
