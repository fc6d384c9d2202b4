"""Two processes find what one finds, to rounding; the noise of an image is the same on any process."""

import json

import numpy as np
import pytest
from PIL import Image

import elucid
from tests import scripts
from tests.snapshots import save_random_snapshot


def last(done) -> dict:
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def test_memorisation_and_loss(tmp_path, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    random, paths = np.random.RandomState(0), {}
    for name, num in (("train", 45), ("test", 31), ("samples", 27)):
        (tmp_path / name).mkdir()
        paths[name] = str(tmp_path / name)
        for index, image in enumerate(random.randint(0, 256, (num, 8, 8, 3), np.uint8)):
            Image.fromarray(image).save(tmp_path / name / f"{index}.png")
    train, test, samples = paths.values()
    flags = [f"--train={train}", f"--test={test}", f"--images={samples}", f"--dest={tmp_path}/two.json", "--json"]
    both = {"processes": 2, "folder": tmp_path}
    found = last(
        scripts.run("evaluate.py", "memorisation", *flags, "--detector=pixels", "--batch=8", "--device=cpu", **both)
    )
    alone = elucid.memorisation(
        train, test, samples, detector="pixels", device="cpu", dest=tmp_path / "one.json"
    ).as_dict()
    assert {**found, "pictures": None} == {**json.loads(json.dumps(alone)), "pictures": None}
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()

    snapshot = save_random_snapshot(tmp_path / "snapshot.pkl")
    flags = [f"--network={snapshot}", f"--data={train}", f"--test={test}", "--sigmas=2", "--device=cpu", "--json"]
    found = last(scripts.run("evaluate.py", "loss", *flags, "--batch=8", **both))
    alone = elucid.heldout_loss(snapshot, train, test, sigmas=2, device="cpu")
    assert found["about"]["test_loss"] == pytest.approx(alone.about["test_loss"], rel=1e-6)
    assert found["about"]["train_loss"] == pytest.approx(alone.about["train_loss"], rel=1e-6)
