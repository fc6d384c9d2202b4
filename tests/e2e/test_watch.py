"""evaluate.py watch: all snapshots of a run, also those that appear later, once each."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import elucid
from elucid.evaluation.results import load_result, results_of
from tests import scripts
from tests.snapshots import save_random_snapshot

FLAGS = ("--num=12", "--steps=2", "--detector=random", "--device=cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for index, image in enumerate(np.random.RandomState(0).randint(0, 256, (30, 8, 8), np.uint8)):
        Image.fromarray(image).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture
def run(data, tmp_path):
    """The folder of a run that ended, with three snapshots."""
    folder = tmp_path / "run"
    folder.mkdir()
    options = {"dataset": {"path": str(data)}, "loop": {"duration_mimg": 0.003}}
    (folder / "training_options.json").write_text(json.dumps(options))
    (folder / "run.json").write_text('[{"started": "then", "ended": "now"}]')
    for kimg in (1, 2, 3):
        save(folder, kimg)
    return folder


def save(folder: Path, kimg: int) -> Path:
    return save_random_snapshot(folder / f"network-snapshot-{kimg:06d}.pkl", channels=1, seed=kimg, nimg=1000 * kimg)


@pytest.fixture
def watch(monkeypatch, capsys):
    def call(*args, code=0):
        found, out, err = scripts.call(monkeypatch, capsys, "evaluate.py", "watch", *args)
        assert found == code, err
        return out.splitlines(), err.splitlines()

    return call


def scored(err: list[str]) -> list[str]:
    return [line.split(":")[0] for line in err if line.startswith("network-snapshot-") and "kid12" in line]


def test_a_finished_run(run, watch, data):
    out, err = watch(run, *FLAGS, "--metrics=kid,fid", "--target=1e6")
    assert scored(err) == [f"network-snapshot-00000{kimg}.pkl" for kimg in (1, 2, 3)]
    assert "reached kid12_random 1e+06 after 1 kimg (33.33 epochs)" in out
    (path,) = results_of(run)
    result = load_result(path)
    values = [value for _, value in result.curves[0].series[0].points]
    assert float(out[-1]) == pytest.approx(min(values), rel=1e-4) and result.value == min(values)
    alone = elucid.score(
        elucid.load(run / "network-snapshot-000002.pkl", device="cpu").sample(range(12), steps=2), data,
        metrics=["kid"], detector="random", device="cpu",
    )  # fmt: skip
    assert values[1] == pytest.approx(alone.value, rel=1e-4)
    again, err = watch(run, *FLAGS, "--metrics=kid,fid")
    assert not scored(err) and again[-1] == out[-1]


def test_what_was_scored_in_another_way_or_has_changed_is_scored(run, watch):
    watch(run, *FLAGS)
    assert len(scored(watch(run, *FLAGS, "--S_churn=5")[1])) == 3
    save_random_snapshot(run / "network-snapshot-000002.pkl", channels=1, seed=9, nimg=2000)
    assert scored(watch(run, *FLAGS)[1]) == ["network-snapshot-000002.pkl"]


def test_half_written_and_vanished_files_are_left_out(run, watch, monkeypatch):
    whole = (run / "network-snapshot-000002.pkl").read_bytes()
    (run / "network-snapshot-000002.pkl").write_bytes(whole[:1000])
    (run / "network-snapshot-000003.pkl").unlink()
    (run / "network-snapshot-000003.pkl").symlink_to(run / "gone.pkl")
    out, err = watch(run, *FLAGS, "--once", "--json")
    assert scored(err) == ["network-snapshot-000001.pkl"]
    assert "network-snapshot-000002.pkl is left out" in "\n".join(json.loads(out[-1])["lines"])
    (run / "network-snapshot-000002.pkl").write_bytes(whole)
    assert scored(watch(run, *FLAGS, "--once")[1]) == ["network-snapshot-000002.pkl"]


WRITER = """
import json, os, sys, time
folder, parts = sys.argv[1], sys.argv[2:]
for part in parts:
    time.sleep(0.4)
    data, name = open(part, "rb").read(), os.path.join(folder, os.path.basename(part))
    open(name, "wb").write(data[:2000])  # in place, as a copy over a network
    time.sleep(0.4)
    open(name, "wb").write(data)
open(os.path.join(folder, "run.json"), "w").write('[{"ended": "now"}]')
"""


def test_a_run_that_goes_on(run, watch, tmp_path):
    """Another process writes snapshots, each first by half; the last one ends the run."""
    (run / "run.json").write_text('[{"started": "now"}]')
    parts = [(run / f"network-snapshot-00000{kimg}.pkl").rename(tmp_path / f"network-snapshot-00000{kimg}.pkl")
             for kimg in (2, 3)]  # fmt: skip
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(run), *map(str, parts)])
    out, err = watch(run, *FLAGS, "--every=0.1")
    assert writer.wait(timeout=60) == 0
    assert scored(err) == [f"network-snapshot-00000{kimg}.pkl" for kimg in (1, 2, 3)]
    assert any("Ctrl-C" in line for line in err)


def test_ctrl_c_keeps_what_is_scored(run, watch, monkeypatch):
    (run / "run.json").write_text('[{"started": "now"}]')
    (run / "network-snapshot-000003.pkl").unlink()

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("elucid.api.evaluations.scoring.watch.time.sleep", interrupted)
    _, err = watch(run, *FLAGS, code=130)
    assert err[-1] == "error: interrupted" and len(load_result(run / "evaluations" / "watch.json").tables[0].rows) == 2


def test_bad_input_is_one_line(run, watch, tmp_path, data):
    for args, reason in (
        ([tmp_path], "not the folder of a run"),
        ([run, "--ema=7"], "no average '7'"),
        ([run, "--cfg=2"], "trained without classes"),
        ([run, "--metrics=kidd"], "did you mean 'kid'"),
        ([run, "--ref=no.npz"], "no.npz"),
        ([run, f"--dest={tmp_path}"], "is a folder"),
        ([run, "--every=0"], "--every"),
        ([run, "--metrics=dc", "--num=3"], "at least 6 generated"),
    ):
        _, err = watch(*args, "--once", *(flag for flag in FLAGS if not str(args).count("--num") or "num" not in flag),
                       code=2)  # fmt: skip
        errors = [line for line in err if line.startswith("error: ")]
        assert len(errors) == 1 and reason in errors[0], err
    (run / "training_options.json").write_text('{"dataset": {"path": "/gone.zip"}, "loop": {"duration_mimg": 1}}')
    _, err = watch(run, *FLAGS, "--once", code=2)
    assert "/gone.zip" in err[-1]
