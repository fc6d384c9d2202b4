"""Two processes score as one does."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.metrics.detectors import make_detector
from elucid.metrics.frechet import frechet_distance
from elucid.metrics.measures.kernel import kernel_distance
from elucid.metrics.measures.neighbours import neighbourhoods


def test_two_processes_give_the_distance_of_one(root, tmp_path):
    """`ref` and `calc` under torchrun, images and batches uneven, against all features at once."""
    random, features = np.random.RandomState(0), {}
    detector = make_detector("random", torch.device("cpu"))
    for name, num in (("real", 70), ("samples", 33)):
        images = random.randint(0, 256, (num, 8, 8, 3), np.uint8)
        features[name] = detector(torch.from_numpy(images).movedim(3, 1)).double()
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{index}.png")

    def run(*args: str, code: int = 0) -> list[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launcher, str(root / "fid.py"), *args, "--batch=8", "--device=cpu"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
        assert (done.returncode == 0) == (code == 0), done.stderr
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
    few = ["--num-images=4", *metrics[1:]]
    said = run("calc", f"--images={tmp_path}/samples", f"--ref={tmp_path}/ref.npz", *few, code=2)
    assert sum(line.startswith("error: ") and "at least 6" in line for line in said) == 1
