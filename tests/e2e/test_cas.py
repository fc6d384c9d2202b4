"""`evaluate.py cas` and `evaluate.py svc`, and their mistakes."""

import json

import numpy as np
import pytest
from PIL import Image

import elucid
from elucid.evaluation.results import load_result
from tests import scripts
from tests.snapshots import save_random_snapshot

QUICK = ("--net=small", "--epochs=5", "--batch=16", "--device=cpu")


def write(folder, labels, seed=0, size=8, mode="L", bright=True, class_names=None):
    """Noise with a bright bar at the place of its class."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index, label in enumerate(labels):
        pixels = rng.integers(0, 120, (size, size), dtype=np.uint8)
        if bright and isinstance(label, int):
            pixels[:, 2 * label : 2 * label + 2] += 130
        Image.fromarray(pixels).convert(mode).save(folder / f"{index:03d}.png")
    listed = [[f"{index:03d}.png", label] for index, label in enumerate(labels) if label is not None]
    content = {"labels": listed or None} | ({"class_names": class_names} if class_names else {})
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Real, synthetic and test images of three classes, and sets that do not fit."""
    root = tmp_path_factory.mktemp("cas")
    classes = [0, 1, 2] * 16
    for index, name in enumerate(("real", "synthetic", "test")):
        write(root / name, classes, seed=index)
    write(root / "wrong", [(label + 1) % 3 for label in classes], bright=False)
    write(root / "constant", [0])
    write(root / "two", [0, 1] * 24)
    write(root / "four", [0, 1, 2, 3] * 12)
    write(root / "larger", classes, size=16)
    write(root / "rgb", classes, mode="RGB")
    write(root / "unlabelled", [None] * 48)
    write(root / "partly", [*classes[:-1], None])
    write(root / "vectors", [[0.5, 0.5]] * 48)
    write(root / "named", classes, class_names=["a", "b", "c"])
    write(root / "renamed", classes, class_names=["a", "c", "b"])
    write(root / "few", classes[:9])
    for index in range(48):  # the same gray in all images
        Image.fromarray(np.full((8, 8), 7, np.uint8)).save(root / "constant" / f"{index:03d}.png")
    labels = [[f"{index:03d}.png", classes[index]] for index in range(48)]
    (root / "constant/dataset.json").write_text(json.dumps({"labels": labels}))
    return root


@pytest.fixture
def evaluate(monkeypatch, capsys):
    def run(*arguments):
        code, out, err = scripts.call(monkeypatch, capsys, "evaluate.py", *arguments)
        return code, out.splitlines(), [line for line in err.splitlines() if line.startswith("error: ")]

    return run


def test_cas_tells_good_images_from_bad_ones_and_goes_on(evaluate, folder, tmp_path):
    sets = (f"--real={folder}/real", f"--test={folder}/test")
    dest, work = tmp_path / "good.json", tmp_path / "work"
    code, out, _ = evaluate("cas", *sets, f"--images={folder}/synthetic", *QUICK, "--seeds=2", f"--dest={dest}")
    assert code == 0 and float(out[-1]) > 90
    result = load_result(dest)
    assert result.value == pytest.approx(float(out[-1]), rel=1e-4) and result.name == "cas_small"
    scores = {row[:2]: row[2] for row in result.tables[0].rows}
    assert len(scores) == 9 and scores["real", "top-1 %"] > 90 and scores["both", "AUROC"] > 0.95
    assert [row[0] for row in result.tables[1].rows] == ["0", "1", "2"]
    assert [series.name for series in result.curves[0].series] == ["real", "synthetic", "both"]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "good.json.work").iterdir()}
    assert len(files) == 6
    more = ("cas", *sets, f"--images={folder}/synthetic", *QUICK, "--seeds=3", f"--dest={dest}", "--json")
    code, out, _ = evaluate(*more)
    assert json.loads(out[-1])["about"]["seeds"] == 3
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "good.json.work").iterdir()}
    assert len(after) == 9 and files.items() <= after.items()

    # Other images, the same real ones: only what depends on them is trained.
    bad = (f"--images={folder}/wrong", *QUICK, "--sets=synthetic", "--seeds=1")
    code, out, _ = evaluate("cas", *sets, *bad, f"--work={tmp_path}/good.json.work")
    assert code == 0 and float(out[-1]) < 60
    assert len(list((tmp_path / "good.json.work").iterdir())) == 10 and not work.exists()


def test_cas_samples_by_itself(evaluate, folder, tmp_path):
    snapshot = save_random_snapshot(tmp_path / "model.pkl", channels=1, classes=3)
    sets = (f"--real={folder}/real", f"--test={folder}/test", "--num=24", f"--network={snapshot}", "--steps=1")
    dest = tmp_path / "cas.json"
    code, out, _ = evaluate("cas", *sets, *QUICK, "--epochs=1", "--seeds=1", f"--dest={dest}")
    assert code == 0 and 0 <= float(out[-1]) <= 100
    (samples,) = (tmp_path / "cas.json.work").glob("samples-*")
    labels = json.loads((samples / "dataset.json").read_text())["labels"]
    assert sorted(label for _, label in labels) == [0] * 8 + [1] * 8 + [2] * 8
    result = load_result(dest)
    assert result.interval[0] < result.value < result.interval[1] and result.about["synthetic"] == str(samples)
    how = result.about["sampling"]
    assert (how["class_policy"], how["seeds"], how["network"]) == ("equal", "0-23", str(snapshot))


def test_test_images_that_are_trained_on_are_told(folder, monkeypatch, capsys):
    sets = (f"--real={folder}/real", f"--images={folder}/synthetic", *QUICK, "--epochs=1", "--seeds=1")
    for test, shared in (("real", True), ("test", False)):
        code, _, err = scripts.call(monkeypatch, capsys, "evaluate.py", "cas", *sets, f"--test={folder}/{test}")
        assert code == 0 and ("warning: 48 of 48 images" in err) == shared


def test_constant_images_teach_nothing(folder):
    how = {"net": "small", "epochs": 3, "batch": 16, "seeds": 1, "device": "cpu", "sets": ["synthetic"]}
    result = elucid.cas(folder / "real", folder / "test", folder / "constant", **how)
    assert result.value < 60 and result.tables[0].rows[0][0] == "synthetic"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--real={d}/real --images={d}/two --test={d}/test", "two has no image of class 2"),
        ("--real={d}/real --images={d}/synthetic --test={d}/two", "two has no image of class 2"),
        ("--real={d}/real --images={d}/four --test={d}/test", "four has class 3"),
        ("--real={d}/real --images={d}/larger --test={d}/test", "16x16 gray"),
        ("--real={d}/real --images={d}/synthetic --test={d}/rgb", "8x8 RGB"),
        ("--real={d}/unlabelled --images={d}/synthetic --test={d}/test", "no class labels"),
        ("--real={d}/real --images={d}/partly --test={d}/test", "047.png"),
        ("--real={d}/real --images={d}/vectors --test={d}/test", "vectors has no class labels"),
        ("--real={d}/named --images={d}/renamed --test={d}/test", "class names"),
        ("--real={d}/real --images={d}/few --test={d}/test", "few has 9 images, fewer than the 48"),
        ("--real={d}/real --images={d}/synthetic --test={d}/test --num=49", "fewer than the 49"),
        ("--real={d}/real --images={d}/nowhere --test={d}/test", "nowhere"),
        ("--real={d}/real --images={d}/synthetic --test={d}/test --network=x.pkl", "exclude each other"),
        ("--real={d}/real --images={d}/synthetic --test={d}/test --cfg=2", "--cfg is for sampling"),
        ("--real={d}/real --images={d}/synthetic --test={d}/test --sample_seeds=0-9", "--sample_seeds"),
        ("--real={d}/real --test={d}/test", "--images"),
        ("--real={d}/real --images={d}/synthetic --test={d}/test --net=resnet5", "--net"),
        ("--real={d}/real --images={d}/synthetic --test={d}/test --sets=fake", "unknown set 'fake'"),
        ("--real={d}/real --images={d}/synthetic --test={d}/test --dest={d}", "is a folder"),
        ("--real={d}/real --network={d}/colour.pkl --test={d}/test", "8x8 RGB"),
        ("--real={d}/real --network={d}/uncond.pkl --test={d}/test", "has no classes"),
        ("--real={d}/real --network={d}/uncond.pkl --sample_seeds=0-9 --test={d}/test", "--sample_seeds"),
    ],
)
def test_cas_bad_input_is_one_line(evaluate, folder, tmp_path, flags, reason):
    if ".pkl" in flags and not (folder / "colour.pkl").exists():
        save_random_snapshot(folder / "colour.pkl", channels=3, classes=3)
        save_random_snapshot(folder / "uncond.pkl", channels=1)
    dest = () if "--dest" in flags else (f"--dest={tmp_path}/out/cas.json",)
    code, out, errors = evaluate("cas", *QUICK, *flags.format(d=folder).split(), *dest)
    assert code == 2 and out == [] and len(errors) == 1 and reason in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_says_so(evaluate, folder):
    sets = (f"--real={folder}/real", f"--images={folder}/synthetic", f"--test={folder}/test")
    code, _, errors = evaluate("cas", *sets, *QUICK, "--sets=real", "--seeds=1", "--lr=1e30")
    assert code == 2 and len(errors) == 1 and "lower --lr" in errors[0]


def test_svc_has_a_table_and_the_numbers_of_fid_svc(evaluate, folder, tmp_path, monkeypatch, capsys):
    arguments = ("svc", f"--data={folder}/real", f"--test={folder}/test", f"--images={folder}/synthetic")
    code, out, _ = evaluate(*arguments, f"--dest={tmp_path}/svc.json")
    before = scripts.call(monkeypatch, capsys, "fid.py", *arguments)[1].splitlines()
    assert code == 0 and float(out[-1]) == pytest.approx(float(before[-1]), abs=0.01) and before[1] in out
    result = load_result(tmp_path / "svc.json")
    assert sum(map(sum, (row[1:] for row in result.tables[1].rows))) == 48
    assert sum(row[3] for row in result.tables[0].rows) == 48
    assert result.interval[0] < result.value <= result.interval[1] + 1e-9
    right = sum(row[1 + index] for index, row in enumerate(result.tables[1].rows))
    assert result.value == pytest.approx(100 * right / 48)
    code, out, _ = evaluate(*arguments, "--grid")
    assert code == 0 and "cross-validation" in out[0] and float(out[-1]) > 90
    code, out, _ = evaluate(*arguments, "--C=100", "--gamma=0.01", "--json")
    assert json.loads(out[-1])["about"]["gamma"] == 0.01
    code, out, _ = evaluate("svc", f"--data={folder}/real", f"--images={folder}/two")
    assert code == 0 and any(line.split()[:2] == ["2", "0"] for line in out)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--data={d}/real --images={d}/four", "four has class 3"),
        ("--data={d}/real --images={d}/larger", "16x16 gray"),
        ("--data={d}/real --images={d}/unlabelled", "--labels"),
        ("--data={d}/real --images={d}/synthetic --gamma=-1", "--gamma"),
        ("--data={d}/real --images={d}/synthetic --gamma=wide", "--gamma"),
        ("--data={d}/real --images={d}/synthetic --C=3 --grid", "--grid"),
        ("--data={d}/real --images={d}/synthetic --dest={d}", "is a folder"),
    ],
)
def test_svc_bad_input_is_one_line(evaluate, folder, flags, reason):
    code, out, errors = evaluate("svc", *flags.format(d=folder).split())
    assert code == 2 and out == [] and len(errors) == 1 and reason in errors[0]
