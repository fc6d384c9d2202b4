"""fid.py as its users call it: numbers on the last line, one line for what is wrong."""

import json
import runpy
import sys
from functools import partial

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from sklearn.datasets import load_digits

from elucid.dnnlib.files import sha256
from tests import vectors
from tests.inception import state as inception_state
from tests.snapshots import save_random_snapshot


@pytest.fixture
def script(root, monkeypatch, capsys):
    """Run a script in this process; returns exit code, lines of stdout and of stderr."""

    def call(name, *args):
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(root / name), run_name="__main__")
        captured = capsys.readouterr()
        return stop.value.code, captured.out.splitlines(), captured.err.splitlines()

    return call


@pytest.fixture
def fid(script):
    return partial(script, "fid.py")


def write(folder, images, labels=None, subdirs=False):
    entries = []
    for index, image in enumerate(images):
        name = f"{index - index % 100:06d}/{index:06d}.png" if subdirs else f"{index:06d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
        entries.append([name, int(labels[index]) if labels is not None else None])
    if labels is not None:
        (folder / "dataset.json").write_text(json.dumps({"labels": entries}))
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Folders of digits: 400 real, 150 others as `generate.py --subdirs` writes them, all with labels."""
    folder, data = tmp_path_factory.mktemp("digits"), load_digits()
    images = (data.images / 16 * 255).round().astype(np.uint8)
    write(folder / "real", images[:400], data.target[:400])
    write(folder / "samples", images[400:550], data.target[400:550], subdirs=True)
    return folder


@pytest.fixture
def ref(digits, fid):
    path = digits / "ref.npz"
    if not path.exists():
        code, out, _ = fid("ref", f"--data={digits}/real", f"--dest={path}", "--detector=random", "--batch=100")
        assert code == 0 and "400 images" in out[-1]
    return path


def test_number_stands_alone_on_the_last_line(fid, digits, ref):
    code, out, err = fid("calc", f"--images={digits}/samples", f"--ref={ref}", "--num=150")
    assert code == 0 and float(out[-1]) > 0.5
    assert "150 images" in out[-2] and "400 images" in out[-2] and not any("warning" in line for line in err)
    code, out, _ = fid("calc", f"--images={digits}/real", f"--ref={ref}", "--num=400")
    assert float(out[-1]) < 1e-3


def test_json_says_what_was_measured(fid, digits, ref):
    arguments = ("calc", f"--images={digits}/samples", f"--ref={ref}", "--num=150", "--batch=7")
    result = json.loads(fid(*arguments, "--json")[1][-1])
    assert result["value"] == pytest.approx(float(fid(*arguments)[1][-1]), rel=1e-5)
    assert result["name"] == "fid150_random" and result["resize"] == "bilinear-antialias-32"
    assert (result["num_images"], result["ref_images"], result["seed"]) == (150, 400, 0)
    assert len(result["detector_sha256"]) == 64


def test_of_more_images_the_seed_takes_a_fixed_subset_and_says_so(fid, digits, ref):
    arguments = ("calc", f"--images={digits}/samples", f"--ref={ref}", "--num=100")
    code, first, err = fid(*arguments)
    assert code == 0 and "150 images, more than the 100" in err[0]
    assert fid(*arguments)[1] == first != fid(*arguments, "--seed=1")[1]


def test_fewer_images_are_an_error_that_counts_them(fid, digits, ref):
    code, out, err = fid("calc", f"--images={digits}/samples", f"--ref={ref}")
    assert (code, out) == (2, []) and len(err) == 1
    assert "150 images" in err[0] and "--num=50000" in err[0] and "--num=150" in err[0]


def test_left_over_images_are_reported(fid, digits, ref, tmp_path):
    write(tmp_path, np.zeros((80, 8, 8), np.uint8), np.zeros(80, int))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "stale.png")
    _, _, err = fid("calc", f"--images={tmp_path}", f"--ref={ref}", "--num=81")
    assert "stale.png" in err[0]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    return save_random_snapshot(tmp_path_factory.mktemp("snapshot") / "snapshot.pkl", channels=1, classes=3)


def test_a_snapshot_scores_as_the_files_it_would_make(fid, script, ref, snapshot, tmp_path):
    """Also with options of sampling, seeds out of order, and batches that cut them otherwise."""
    flags = (f"--network={snapshot}", "--seeds=40-44,0-4", "--steps=2", "--S_churn=1", "--device=cpu")
    assert script("generate.py", f"--outdir={tmp_path}/out", "--labels", *flags)[0] == 0
    result = json.loads(fid("calc", f"--ref={ref}", "--json", "--batch=3", *flags)[1][-1], parse_constant=pytest.fail)
    files = fid("calc", f"--ref={ref}", f"--images={tmp_path}/out", "--num=10", "--json")[1]
    assert result["value"] == pytest.approx(json.loads(files[-1])["value"], rel=1e-5)
    assert (result["name"], result["num_images"], result["seeds"]) == ("fid10_random", 10, "40-44,0-4")
    assert result["sampling"]["schedule"]["num_steps"] == 2


def test_samples_of_two_runs_in_one_folder_are_reported(fid, script, ref, snapshot, tmp_path):
    for flags in (("--seeds=0-5", "--steps=1"), ("--seeds=6-8", "--steps=2")):
        assert script("generate.py", f"--network={snapshot}", f"--outdir={tmp_path}", "--device=cpu", *flags)[0] == 0
    _, _, err = fid("calc", f"--ref={ref}", f"--images={tmp_path}", "--num=9")
    assert "2 different runs (6, 3 images)" in err[0]


@pytest.mark.parametrize(
    "command, reason",
    [
        ("calc --images={d}/nowhere --ref={d}/ref.npz --num=2", "nowhere"),
        ("calc --images={d}/samples --ref={d}/nowhere.npz --num=2", "nowhere.npz"),
        ("calc --images={d}/samples --ref={d}/ref.npz --num=150 --detector=nothing", "nothing"),
        ("calc --images={d}/samples --ref={d}/ref.npz --num=1", "--num"),
        ("calc --images={d}/samples --ref={d}/ref.npz --nun=150", "--nun"),
        ("calc --images={d}/samples --ref={d}/ref.npz --num=150 --device=abacus", "abacus"),
        ("calc --ref={d}/ref.npz", "--images"),
        ("calc --ref={d}/ref.npz --images={d}/samples --seeds=0-9", "--network"),
        ("calc --ref={d}/ref.npz --images={d}/samples --num=150 --class=3", "--class is for sampling"),
        ("calc --ref={d}/ref.npz --images={d}/samples --num=150 --steps=3", "--steps is for sampling"),
        ("", "Missing command"),
        ("calc --ref={d}/ref.npz --images={d}/samples --network={d}/nowhere.pkl", "exclude"),
        ("calc --ref={d}/ref.npz --network={d}/nowhere.pkl", "--seeds"),
        ("calc --ref={d}/ref.npz --network={d}/nowhere.pkl --seeds=0-9 --num=8", "--num"),
        ("calc --ref={d}/ref.npz --network={d}/nowhere.pkl --seeds=0-9", "nowhere.pkl"),
        ("ref --data={d}/real --dest={d}/x.pt --detector=random", "npz"),
        ("ref --data={d}/real --dest={d}/x.npz --detector-weights={d}/nowhere.pth", "nowhere.pth"),
        ("svc --data={d}/real --images={d}/nowhere", "nowhere"),
    ],
)
def test_bad_input_is_one_line(fid, digits, ref, command, reason):
    code, out, err = fid(*command.format(d=digits).split())
    assert (code, out) == (2, []) and len(err) == 1 and err[0].startswith("error: ") and reason in err[0]
    assert not (digits / "x.npz").exists()


def test_detectors_do_not_mix(fid, digits, tmp_path):
    np.savez(tmp_path / "edm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    arguments = ("calc", f"--images={digits}/samples", f"--ref={tmp_path}/edm.npz", "--num=150", "--detector=random")
    code, out, err = fid(*arguments)
    assert (code, out) == (2, []) and "random" in err[-1] and "inception" in err[-1]


def test_inception_without_network_names_the_mend(fid, digits, monkeypatch, tmp_path):
    def no_network(*request, **options):
        raise requests.ConnectionError("no route")

    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    monkeypatch.setattr(requests.Session, "send", no_network)
    code, _, err = fid("ref", f"--data={digits}/real", f"--dest={tmp_path}/ref.npz")
    assert code == 2 and "--detector-weights" in err[-1] and not (tmp_path / "ref.npz").exists()


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """The network of the vectors as a file, in place of the public one."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    description, _ = vectors.load(vectors.cases("metrics/inception")[0])
    torch.save(inception_state(description["salt"], description["state"]), path)
    return path


def test_inception_from_a_file(fid, inception_weights, tmp_path):
    """The file's own hash is recorded, so that distances by it never pass for those of the public file."""
    images = np.random.RandomState(0).randint(0, 256, (3, 32, 32, 3), np.uint8)
    write(tmp_path / "images", images)
    weights, ref = f"--detector-weights={inception_weights}", tmp_path / "ref.npz"
    code, out, err = fid("ref", f"--data={tmp_path}/images", f"--dest={ref}", weights)
    assert code == 0 and "3 images" in out[-1]
    assert any("not the public" in line for line in err) and any("2048 dimensions" in line for line in err)
    with np.load(ref, allow_pickle=False) as arrays:
        assert arrays["mu"].shape == (2048,) and arrays["sigma"].shape == (2048, 2048)
        assert arrays["detector"] == "inception" and arrays["detector_sha256"] == sha256(inception_weights)
        np.savez(tmp_path / "public.npz", **{**arrays, "detector_sha256": "6726825d" + 56 * "0"})
    code, out, err = fid("calc", f"--images={tmp_path}/images", f"--ref={tmp_path}/public.npz", "--num=3", weights)
    assert (code, out) == (2, []) and "6726825d" in err[-1] and "--detector-weights" in err[-1]


def test_svc_judges_samples(fid, digits):
    arguments = ("svc", f"--data={digits}/real", f"--test={digits}/samples", f"--images={digits}/samples")
    code, out, _ = fid(*arguments)
    assert code == 0 and 90 < float(out[-1]) <= 100
    assert "400 images" in out[0] and "150 images" in out[1] and "95 % interval" in out[2]
    assert json.loads(fid(*arguments, "--json")[1][-1])["value"] == pytest.approx(float(out[-1]), abs=0.01)


def test_svc_needs_labels(fid, digits, tmp_path):
    write(tmp_path, np.zeros((3, 8, 8), np.uint8))
    code, _, err = fid("svc", f"--data={digits}/real", f"--images={tmp_path}")
    assert code == 2 and "--labels" in err[0]
