"""Scores while training, watched snapshots and sweeps are those of one process."""

import json

import numpy as np
import pytest
from PIL import Image

import elucid
from elucid.evaluation.results import load_result
from tests import scripts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes wrote: 13 samples in uneven shares, ticks 2 and 3."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data").mkdir()
    for index, image in enumerate(np.random.RandomState(0).randint(0, 256, (30, 8, 8), np.uint8)):
        Image.fromarray(image).save(folder / f"data/{index:02d}.png")
    scripts.run("tests/distributed/online_worker.py", folder, processes=2, folder=folder)
    return folder


def watched(folder, **options) -> dict[float, float]:
    """Scores by thousands of images, by this process."""
    found = elucid.watch(folder / "run", metrics="kid", detector="random", num=13, once=True, device="cpu",
                         dest=folder / "alone.json", options=elucid.SampleOptions(**options))  # fmt: skip
    return {kimg: value for _, kimg, value, *_ in found.tables[0].rows}


def test_scores_while_training(folder):
    found = dict(load_result(folder / "run/evaluations/online.json").curves[0].series[0].points)
    assert list(found) == [0.064, 0.096] and found == pytest.approx(watched(folder, steps=2), rel=1e-4)
    logged = [json.loads(line) for line in (folder / "run/stats.jsonl").read_text().splitlines()]
    assert [line["Eval/kid13_random"]["mean"] for line in logged[1:]] == list(found.values())
    assert json.loads((folder / "run/best-snapshot.json").read_text())["value"] == min(found.values())
    assert (folder / "run/log.txt").read_text().count("eval      kid13") == 2


def test_a_stop_of_one_process_is_obeyed_by_all(folder):
    log = (folder / "stopped/log.txt").read_text()
    assert "stopped, so there is no score at 0.064 kimg" in log and "stopped at 0.1 kimg" in log
    assert not (folder / "stopped/best-snapshot.pkl").exists() and list(folder.glob("stopped/training-state-*"))


def test_watch(folder):
    found = {kimg: value for _, kimg, value, *_ in load_result(folder / "watch.json").tables[0].rows}
    assert found == pytest.approx(watched(folder, steps=1), rel=1e-4) and len(found) == 2


def test_sweep(folder):
    ref = folder / "run/evaluations/reference-random.npz"
    alone = elucid.sweep(folder / "run", ref, {"steps": [1, 2, 3]}, metrics="kid", num=34, device="cpu")
    both = load_result(folder / "sweep.json")
    assert both.value == pytest.approx(alone.value, rel=1e-4) and both.about["best"] == alone.about["best"]
