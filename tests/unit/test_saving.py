"""Saving in the background: what is written is what was copied, what is old goes, and a full disk loses nothing."""

import errno
import threading
from types import SimpleNamespace

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.checkpoint import load_state
from elucid.torch_utils.signals import StopRequest
from elucid.training import saving
from elucid.training.config.settings import LoopOptions
from elucid.training.saving import MILESTONES, Saver, frozen, on_host, superseded
from elucid.training.snapshots.snapshot import load_snapshot, save_snapshot
from tests.snapshots import save_random_snapshot


class FakeRun:
    def __init__(self):
        self.weights, self.kimg_label = torch.zeros(1000), "000001"

    def state_dict(self):
        return {"format": "elucid-state", "weights": self.weights, "again": [self.weights], "index": 3}


@pytest.fixture
def saver(tmp_path):
    said = []
    with Saver(tmp_path, LoopOptions(), said.append, StopRequest()) as saver:
        saver.said = said
        yield saver


def test_training_goes_on_while_a_state_of_before_is_written(saver, tmp_path, monkeypatch):
    may, write = threading.Event(), saving.save_state
    monkeypatch.setattr(saving, "save_state", lambda *args: (may.wait(30), write(*args)))
    run = FakeRun()
    path = saver.state(run)
    run.weights.fill_(1)  # a step, before anything is written
    saver.check()
    assert not path.exists()
    may.set()
    saver.wait()
    state = load_state(path)
    assert state["index"] == 3 and not state["weights"].any() and not state["again"][0].any()
    assert saver.stop.reserve > 1


def test_what_goes_wrong_in_the_background_is_raised(saver, monkeypatch):
    def fails(path, state):
        raise UserError(f"{path} cannot be written: Input/output error") from OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(saving, "save_state", fails)
    saver.state(FakeRun())
    with pytest.raises(UserError, match="000001.pt cannot be written: Input/output error"):
        saver.wait()


@pytest.mark.parametrize("when", ["before", "while writing"])
def test_a_full_disk(when, saver, tmp_path, monkeypatch):
    run = FakeRun()
    saver.state(run)
    saver.wait()
    before = (tmp_path / "training-state-000001.pt").read_bytes()
    run.kimg_label = "000002"
    if when == "before":
        monkeypatch.setattr(saving.shutil, "disk_usage", lambda path: SimpleNamespace(free=4000))
    else:

        def fails(path, state):
            raise UserError(f"{path} cannot be written: full") from OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(saving, "save_state", fails)
    with pytest.raises(
        UserError, match=r"000002.pt cannot be written: .*the last good state is .*000001.pt; free some"
    ):
        saver.state(run)
        saver.wait()
    saver.options = LoopOptions(on_full_disk="continue")
    saver.state(run)
    saver.wait()
    assert "training goes on" in saver.said[0] and (tmp_path / "training-state-000001.pt").read_bytes() == before
    monkeypatch.undo()
    saver.state(run)
    saver.wait()
    assert (tmp_path / "training-state-000002.pt").exists(), "there is room again"


def named(folder, *kimg):
    for one in kimg:
        (folder / f"network-snapshot-{one:06d}.pkl").touch()
    return folder / f"network-snapshot-{kimg[-1]:06d}.pkl"


def numbers(paths):
    return [int(path.stem[-6:]) for path in paths]


def test_old_files_go_and_milestones_stay(tmp_path):
    newest = named(tmp_path, 4, 8, 12, 16, 20, 24)
    (tmp_path / "training-state-000001.pt").touch()
    (tmp_path / "network-snapshot-000099.pkl").touch()  # of a run that was resumed from an older state
    assert numbers(superseded(newest, 2, None)) == [4, 8, 12, 16]
    assert numbers(superseded(newest, 9, None)) == []
    assert numbers(superseded(newest, 1, 10)) == [4, 8, 16], "12 and 20 are the first of their ten"
    (tmp_path / MILESTONES).write_text("network-snapshot-000008.pkl\nother\n")
    assert numbers(superseded(newest, 1, 10)) == [4, 16]


def test_milestones_stay_for_ever(tmp_path):
    """One after the other, as in a run: the rule needs no memory but the names that are there."""
    for kimg in range(3, 60, 3):
        for old in superseded(named(tmp_path, kimg), 2, 10):
            old.unlink()
    assert numbers(sorted(tmp_path.iterdir())) == [12, 21, 30, 42, 51, 54, 57]


def test_a_saver_removes_old_states(saver, tmp_path):
    saver.options = LoopOptions(keep_states=2)
    run = FakeRun()
    for number in range(5):
        run.kimg_label = f"{number:06d}.500"
        saver.state(run)
    saver.wait()
    assert sorted(path.name[15:-3] for path in tmp_path.iterdir()) == ["000003.500", "000004.500"]


def test_copies_are_apart_and_equal(tmp_path):
    tensor = torch.arange(3.0)
    copy = on_host({"a": [tensor, (tensor, 1)], "b": None})
    assert copy["a"][0] is copy["a"][1][0] and copy["a"][0].data_ptr() != tensor.data_ptr()
    snapshot = load_snapshot(save_random_snapshot(tmp_path / "one.pkl"))
    still = frozen(snapshot)
    save_snapshot(tmp_path / "again.pkl", snapshot)
    with torch.no_grad():
        next(snapshot.ema.parameters()).fill_(7)
    save_snapshot(tmp_path / "two.pkl", still)
    assert (tmp_path / "two.pkl").read_bytes() == (tmp_path / "again.pkl").read_bytes()
