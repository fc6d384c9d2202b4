"""ECT's public pickle by the commands: sampled in one step and in two, and a run starts from it."""

import copy

import numpy as np
import pytest
import torch

from elucid.training.snapshots.snapshot import load_snapshot
from elucid.training.snapshots.transfer import transfer
from tests import published, scripts, vectors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    case, _ = vectors.load(vectors.cases("preconds/EDM*")[0])
    content = published.checkpoint(case, "ECMPrecond", "SongUNet", dict(case["kwargs"]), {})
    content["ema"].state["sigma_min"] = np.float64(0.002)
    path = tmp_path_factory.mktemp("ect") / "ect.pkl"
    path.write_bytes(published.dumps(content))
    return path


@pytest.mark.parametrize("steps", [1, 2])
def test_sampling(steps, checkpoint, tmp_path, monkeypatch):
    flags = [f"--network={checkpoint}", f"--outdir={tmp_path}", "--seeds=0", "--device=cpu", f"--steps={steps}"]
    assert scripts.exit_code(monkeypatch, "generate.py", *flags) == 0
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_it_has_levels_for_two_steps(checkpoint, tmp_path, monkeypatch, capsys):
    flags = [f"--network={checkpoint}", f"--outdir={tmp_path}/out", "--seeds=0", "--device=cpu", "--steps=3"]
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *flags)
    assert code == 2 and "--steps=3" in err and not (tmp_path / "out").exists()


def test_transfer(checkpoint):
    source = load_snapshot(checkpoint)
    fresh = copy.deepcopy(source.ema)
    for parameter in fresh.parameters():
        parameter.data.zero_()
    transfer(source, fresh)
    assert all(torch.equal(*pair) for pair in zip(source.ema.parameters(), fresh.parameters(), strict=True))
