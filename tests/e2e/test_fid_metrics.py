"""fid.py with several metrics, detectors and blocks of seeds: lines that name them, and one line for what is wrong."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import elucid
from elucid.metrics.detectors import make_detector
from elucid.metrics.measures.kernel import kernel_distance
from elucid.metrics.measures.neighbours import neighbourhoods
from tests import scripts, vectors
from tests.inception import state as inception_state
from tests.snapshots import save_random_snapshot


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Folders of 200 real digits and 120 others."""
    folder = tmp_path_factory.mktemp("digits")
    images = (load_digits().images / 16 * 255).round().astype(np.uint8)
    for name, part in (("real", images[:200]), ("samples", images[200:320])):
        (folder / name).mkdir()
        for index, image in enumerate(part):
            Image.fromarray(image).save(folder / name / f"{index:03d}.png")
    return folder


@pytest.fixture
def fid(monkeypatch, capsys):
    def call(*args, code=0):
        """What it says: notes, then output."""
        found, out, err = scripts.call(monkeypatch, capsys, "fid.py", *args)
        assert found == code, err
        return err + out

    return call


@pytest.fixture
def ref(digits, fid):
    path = digits / "ref.npz"
    if not path.exists():
        fid("ref", f"--data={digits}/real", f"--dest={path}", "--detector=random", "--features", "--device=cpu")
    return path


ALL = "--metrics=fid,kid,pr,dc"


@pytest.fixture
def calc(fid, digits, ref):
    return partial(fid, "calc", f"--images={digits}/samples", "--num=120", "--device=cpu")


def features(folder) -> torch.Tensor:
    images = np.stack([np.asarray(Image.open(path))[None] for path in sorted(folder.glob("*.png"))])
    return make_detector("random", torch.device("cpu"))(torch.from_numpy(images))


def test_one_line_per_metric(calc, digits, ref):
    lines = dict(line.split(" ", 2)[:2] for line in calc(f"--ref={ref}", ALL).splitlines()[-6:])
    assert list(lines) == [f"{name}120_random" for name in ("fid", "kid", "precision", "recall", "density", "coverage")]
    real, made = features(digits / "real"), features(digits / "samples")
    around = neighbourhoods(real, made)
    expected = [kernel_distance(made, real)[0], around.precision, around.recall, around.density, around.coverage]
    assert [float(value) for value in list(lines.values())[1:]] == pytest.approx(expected, rel=1e-4)
    assert lines["fid120_random"] == calc(f"--ref={ref}").splitlines()[-1]  # alone, the number is on the last line


def test_json_has_all_metrics_and_how_images_were_read(calc, ref):
    result = json.loads(calc(f"--ref={ref}", ALL, "--interval", "--json").splitlines()[-1])
    metrics = {metric["metric"]: metric for metric in result["metrics"]}
    assert result["value"] == metrics["fid"]["value"] and result["name"] == "fid120_random"
    assert all(low <= metric["value"] <= high for metric in metrics.values() for low, high in [metric["interval"]])
    for of in (result, result["ref_made"]):
        assert of["crop"] == "none" and of["file_format"] == "png" and len(of["data_sha256"]) == 64
    assert result["label_policy"] is None and result["ref_made"]["label_policy"] == "none"


def test_images_as_reference(calc, digits, ref):
    """The same numbers, and the detector must be named."""
    last = calc(f"--ref={ref}", ALL).splitlines()[-6:]
    assert calc(f"--ref={digits}/real", ALL, "--detector=random").splitlines()[-6:] == last
    assert "holds images, not a reference" in calc(f"--ref={digits}/real", code=2)


def test_several_detectors_in_one_pass(calc, digits, ref, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from elucid.metrics.detectors import Detector\n\n"
        "class Pixels(Detector):\n    name, dim, sha256, resize = 'pixels', 12, '0' * 64, 'none'\n"
        "    def __init__(self, device, weights):\n        self.device = device\n"
        "    def features(self, images):\n        return images[:, 0, ::3, ::2].float().flatten(1)\n"
    )
    both = f"--detector=random,{tmp_path}/mine.py:Pixels"
    lines = calc(f"--ref={digits}/real", "--metrics=fid,kid", both).splitlines()
    names = [line.split()[0] for line in lines[-4:]]
    assert names == ["fid120_random", "kid120_random", "fid120_pixels", "kid120_pixels"]
    assert sum(line.startswith("detector ") for line in lines) == 2
    score = elucid.score(digits / "samples", digits / "real", metrics="kid", num=120, detector=both[11:], device="cpu")
    assert [metric.detector for metric in score.metrics] == ["random", "pixels"]
    assert "detector random is there twice" in calc(f"--ref={ref}", f"--ref={ref}", code=2)
    assert "2 detectors but 1 reference" in calc(f"--ref={ref}", both, code=2)


def test_a_detector_of_ones_own_with_logits(calc, tmp_path):
    """The inception score needs no reference, only `extra` and a method."""
    (tmp_path / "mine.py").write_text(
        "from elucid.metrics.detectors import Detector\n\n"
        "class Judge(Detector):\n    name, dim, sha256, resize, extra = 'judge', 1, '0' * 64, 'none', {'logits': 8}\n"
        "    def __init__(self, device, weights):\n        self.device = device\n"
        "    def features(self, images):\n        return images[:, 0, 0, :1].float()\n"
        "    def logits(self, images):\n        return images[:, 0].float().mean(1) / 20\n"
    )
    value = float(calc("--metrics=is", f"--detector={tmp_path}/mine.py:Judge").splitlines()[-1])
    assert 1 < value < 8


def test_features_are_kept(calc, digits, ref, tmp_path):
    calc(f"--ref={ref}", f"--features={tmp_path}/kept.npz", "--batch=7")
    with np.load(tmp_path / "kept.npz", allow_pickle=False) as kept:
        np.testing.assert_allclose(kept["features"], features(digits / "samples"), rtol=1e-5, atol=1e-5)
        assert kept["features"].dtype == np.float32 and list(kept["names"][:2]) == ["000.png", "001.png"]
        assert kept["detector_sha256"] == make_detector("random", torch.device("cpu")).sha256


def test_the_hash_does_not_depend_on_order_or_batch(digits, tmp_path):
    images = np.stack([np.asarray(Image.open(path))[None] for path in sorted((digits / "samples").glob("*.png"))])
    scores, how = [], {"metrics": ALL[10:], "detector": "random", "device": "cpu"}
    for order, batch in ((slice(None), 64), (slice(None, None, -1), 11)):
        part = torch.from_numpy(images[order].copy())
        scores.append(elucid.score(part, digits / "real", batch=batch, **how))
    assert scores[0].about["data_sha256"] == scores[1].about["data_sha256"]
    for one, other in zip(*(score.metrics for score in scores), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-5)
    assert scores[0]["kid"] == scores[0].metrics[1] and scores[0].value == scores[0]["fid"].value


def test_a_score_in_python(digits, ref):
    score = elucid.score(digits / "samples", ref, num=120, metrics=["kid", "pr"], device="cpu")
    assert score.name == "kid120_random" and score["recall"].interval[0] < score["recall"].value
    assert "precision120_random" in repr(score)
    with pytest.raises(KeyError, match="'dc' was not computed; there are kid, precision, recall"):
        score["dc"]


def test_blocks_of_seeds(fid, ref, tmp_path):
    snapshot = save_random_snapshot(tmp_path / "snapshot.pkl", channels=1, classes=3)
    flags = ("calc", f"--network={snapshot}", f"--ref={ref}", "--steps=1", "--device=cpu")
    result = json.loads(fid(*flags, "--seeds=0-11", "--blocks=3", "--metrics=fid,kid", "--json").splitlines()[-1])
    assert [block["seeds"] for block in result["blocks"]] == ["0-3", "4-7", "8-11"]
    assert result["blocks"][0]["label_policy"] == "random by seed"
    alone = float(fid(*flags, "--seeds=4-7").splitlines()[-1])
    assert result["blocks"][1]["value"] == pytest.approx(alone, rel=1e-4)
    values = [block["value"] for block in result["blocks"]]
    spread = result["spread"][0]
    assert spread["minimum"] == min(values) and spread["mean"] == pytest.approx(np.mean(values))
    assert spread["deviation"] == pytest.approx(np.std(values, ddof=1))
    out = fid(*flags, "--seeds=0-11", "--blocks=3").splitlines()
    assert float(out[-1]) == pytest.approx(spread["mean"], rel=1e-4) and "of 3 blocks: minimum" in out[-2]
    assert "13 seeds make no 3 equal blocks" in fid(*flags, "--seeds=0-12", "--blocks=3", code=2)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--metrics=fid,kidd", "did you mean 'kid'"),
        ("--metrics=,", "--metrics"),
        ("--metrics=is", "no logits, which the metric is needs"),
        ("--metrics=sfid", "no spatial features"),
        ("--metrics=fid_inf", "at least 256 generated images, not 120"),
        ("--blocks=3", "--network"),
        ("--features=kept.txt", "must end in .npz"),
        ("--num=5 --metrics=dc", "the metric dc needs at least 6 generated images, not 5"),
    ],
)
def test_bad_input_is_one_line(calc, ref, flags, reason):
    said = calc(f"--ref={ref}", *flags.split(), code=2)
    error = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and reason in error[0]


def test_a_reference_that_lacks_something_is_refused(calc, fid, digits, ref, tmp_path):
    plain = tmp_path / "plain.npz"
    fid("ref", f"--data={digits}/real", f"--dest={plain}", "--detector=random", "--device=cpu")
    for metric in ("kid", "pr", "dc"):
        said = calc(f"--ref={plain}", f"--metrics={metric}", code=2)
        assert f"has no features, which the metric {metric} needs" in said and "ref --features" in said
    assert "--ref is missing" in calc("--metrics=kid", code=2)
    with np.load(ref, allow_pickle=False) as arrays:
        content = dict(arrays)
    np.savez(plain, **{**content, "features": content["features"] * np.nan})
    assert "features are not finite" in calc(f"--ref={plain}", "--metrics=kid", code=2)
    np.savez(plain, **{**content, "features": content["features"][:3]})
    assert "at least 4 reference images, not 3" in calc(f"--ref={plain}", "--metrics=pr", code=2)
    np.savez(plain, **{**content, "detector_sha256": "1" * 64})
    assert "was made with weights with SHA-256 1111" in calc(f"--ref={plain}", "--metrics=kid", code=2)


def test_images_that_are_all_the_same_are_refused(fid, ref, tmp_path):
    for index in range(10):
        Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / f"{index}.png")
    flags = ("calc", f"--images={tmp_path}", f"--ref={ref}", "--num=10", "--device=cpu")
    for metric in ("fid", "pr"):
        assert "all 10 images are the same one" in fid(*flags, f"--metrics={metric}", code=2)


def test_images_of_another_shape_are_refused(fid, ref, tmp_path):
    for index in range(10):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(tmp_path / f"{index}.png")
    said = fid("calc", f"--images={tmp_path}", f"--ref={ref}", "--num=10", "--device=cpu", code=2)
    assert "the images are 3x8x8 (channels, height, width), those of" in said and "1x8x8; prepare both alike" in said


def test_an_older_reference_says_what_is_unknown(calc, ref, tmp_path):
    with np.load(ref, allow_pickle=False) as arrays:
        kept = ("mu", "sigma", "num_images", "detector", "detector_sha256", "resize")
        np.savez(tmp_path / "old.npz", **{key: arrays[key] for key in kept})
    said = calc(f"--ref={tmp_path}/old.npz")
    assert "does not say: crop, file format, hash of the images, label policy" in said
    assert "reference: shape unknown, crop unknown, format unknown" in said


def test_inception_has_spatial_features_and_logits(fid, tmp_path):
    """The network of the vectors as a file; the score of logits needs no reference."""
    description, _ = vectors.load(vectors.cases("metrics/inception")[0])
    torch.save(inception_state(description["salt"], description["state"]), tmp_path / "weights.pth")
    (tmp_path / "images").mkdir()
    for index, image in enumerate(np.random.RandomState(0).randint(0, 256, (10, 32, 32, 3), np.uint8)):
        Image.fromarray(image).save(tmp_path / f"images/{index}.png")
    weights = (f"--detector-weights={tmp_path}/weights.pth", "--device=cpu")
    fid("ref", f"--data={tmp_path}/images", f"--dest={tmp_path}/ref.npz", "--features", *weights)
    images = (f"--images={tmp_path}/images", "--num=10")
    out = fid("calc", *images, f"--ref={tmp_path}/ref.npz", "--metrics=sfid,is,kid", *weights)
    values = {line.split()[0]: float(line.split()[1]) for line in out.splitlines()[-3:]}
    assert values["sfid10_inception"] == pytest.approx(0, abs=1e-3) and values["is10_inception"] >= 1
    alone = fid("calc", *images, "--metrics=is", "--detector=inception", *weights).splitlines()[-1]
    assert float(alone) == pytest.approx(values["is10_inception"], rel=1e-5)
