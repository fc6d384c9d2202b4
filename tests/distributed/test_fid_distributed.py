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

    def run(*args: str) -> list[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launcher, str(root / "fid.py"), *args, "--batch=8", "--device=cpu"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    run("ref", f"--data={tmp_path}/real", f"--dest={tmp_path}/ref.npz", "--detector=random")
    with np.load(tmp_path / "ref.npz", allow_pickle=False) as ref:
        assert ref["num_images"] == 70
        np.testing.assert_allclose(ref["mu"], features["real"].mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ref["sigma"], features["real"].T.cov(), rtol=1e-4, atol=1e-6)
    out = run("calc", f"--images={tmp_path}/samples", f"--ref={tmp_path}/ref.npz", "--num-images=33", "--json")
    # Not how many lines there are: torch 2.9 adds its own.
    assert [line.startswith("{") for line in out].count(True) == 1, "only the main process prints"
    sides = [part for x in (features["samples"], features["real"]) for part in (x.mean(0), x.T.cov())]
    assert json.loads(out[-1])["value"] == pytest.approx(frechet_distance(*sides), rel=1e-5)
