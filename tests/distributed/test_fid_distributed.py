"""Two processes score as one does."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.metrics.detectors import make_detector
from elucid.metrics.frechet import frechet_distance
from elucid.metrics.measures.collect import Wanted, collect
from elucid.metrics.measures.kernel import kernel_distance
from elucid.metrics.measures.neighbours import neighbourhoods
from tests import scripts
from tests.snapshots import save_random_snapshot


def test_two_processes_give_the_distance_of_one(tmp_path):
    """`ref` and `calc`, images and batches uneven, against all features at once."""
    random, features, pictures = np.random.RandomState(0), {}, {}
    detector = make_detector("random", torch.device("cpu"))
    for name, num in (("real", 70), ("samples", 33)):
        images = random.randint(0, 256, (num, 8, 8, 3), np.uint8)
        pictures[name] = torch.from_numpy(images).movedim(3, 1)
        features[name] = detector(pictures[name]).double()
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{index}.png")

    def run(*args: str, code: int = 0) -> list[str]:
        done = scripts.run("fid.py", *args, "--batch=8", "--device=cpu", processes=2, code=code)
        return (done.stderr if code else done.stdout).splitlines()

    run("ref", f"--data={tmp_path}/real", f"--dest={tmp_path}/ref.npz", "--detector=random", "--features")
    with np.load(tmp_path / "ref.npz", allow_pickle=False) as ref:
        assert ref["num_images"] == 70
        np.testing.assert_allclose(ref["mu"], features["real"].mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ref["sigma"], features["real"].T.cov(), rtol=1e-4, atol=1e-6)
    out = run("calc", f"--images={tmp_path}/samples", f"--ref={tmp_path}/ref.npz", "--num-images=33", "--json")
    # Not how many lines there are: torch 2.9 adds its own.
    assert [line.startswith("{") for line in out].count(True) == 1, "only the main process prints"
    sides = [part for x in (features["samples"], features["real"]) for part in (x.mean(0), x.T.cov())]
    assert json.loads(out[-1])["value"] == pytest.approx(frechet_distance(*sides), rel=1e-5)

    # The order of all features is that of the names: 0, 1, 10, 11, ...
    order = {name: sorted(range(len(x)), key=lambda index: f"{index}.png") for name, x in features.items()}
    real, samples = (features[name][order[name]].float() for name in ("real", "samples"))
    kept, metrics = tmp_path / "kept.npz", ["--num-images=33", "--metrics=fid,kid,pr,dc", "--json"]
    out = run("calc", f"--images={tmp_path}/samples", f"--ref={tmp_path}/ref.npz", f"--features={kept}", *metrics)
    values = {metric["metric"]: metric["value"] for metric in json.loads(out[-1])["metrics"]}
    around = neighbourhoods(real, samples)
    assert values["kid"] == pytest.approx(kernel_distance(samples, real)[0], rel=1e-4, abs=1e-6)
    for name in ("precision", "recall", "density", "coverage"):
        assert values[name] == pytest.approx(getattr(around, name), abs=0.02)
    with np.load(kept, allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["features"], samples, rtol=1e-4, atol=1e-4)
        assert arrays["names"][2] == "10.png"
        here = collect([detector], [Wanted(rows=frozenset({"features"}))], pictures["samples"].split(33), range(33), 33)
        np.testing.assert_array_equal(arrays["features"][np.argsort(order["samples"])], here[0].rows["features"])
    few = ["--num-images=4", *metrics[1:]]
    said = run("calc", f"--images={tmp_path}/samples", f"--ref={tmp_path}/ref.npz", *few, code=2)
    assert sum(line.startswith("error: ") and "at least 6" in line for line in said) == 1


def test_two_processes_score_blocks_of_seeds_as_one_does(tmp_path):
    """The features of a seed stand at its place, and classes are chosen for the whole list."""
    snapshot = save_random_snapshot(tmp_path / "snapshot.pkl", channels=1, classes=3)
    (tmp_path / "real").mkdir()
    for index, image in enumerate(np.random.RandomState(0).randint(0, 256, (20, 8, 8), np.uint8)):
        Image.fromarray(image).save(tmp_path / f"real/{index}.png")
    sampling = [f"--network={snapshot}", "--steps=1", "--class_policy=equal", "--batch=2", "--device=cpu"]
    how = [f"--ref={tmp_path}/real", "--detector=random", *sampling]
    found = {}
    for processes in (1, 2):
        kept = f"--features={tmp_path}/{processes}.npz"
        scripts.run("fid.py", "calc", *how, "--seeds=5-11", kept, processes=processes)
        blocks = ["--seeds=0-11", "--blocks=2", "--metrics=fid,kid,pr", "--json"]
        out = scripts.run("fid.py", "calc", *how, *blocks, processes=processes).stdout
        found[processes] = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    with np.load(tmp_path / "1.npz") as one, np.load(tmp_path / "2.npz") as two:
        np.testing.assert_allclose(one["features"], two["features"], rtol=1e-4, atol=1e-4)
        assert list(one["names"]) == list(two["names"]) == [str(seed) for seed in range(5, 12)]
    for one, two in zip(*(found[processes]["spread"] for processes in (1, 2)), strict=True):
        assert one["mean"] == pytest.approx(two["mean"], rel=1e-4) and one["name"] == two["name"]
    assert found[2]["blocks"][1]["seeds"] == "6-11" and found[2]["blocks"][1]["label_policy"] == "equal"
