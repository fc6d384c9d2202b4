"""Whatever takes a run away, it ends with a code of its own and goes on; what goes wrong in training is survived."""

import json
import math
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

import elucid
from elucid.torch_utils.checkpoint import load_state
from elucid.training.hooks import grid
from elucid.training.hooks.base import Hook
from elucid.training.losses.dsm import DSM
from tests import scripts
from tests.fault.trials import differences

STOPPED = 75
OPTIONS = {
    "cbase": 8,
    "cres": [1],
    "batch": 4,
    "tick": 0.004,
    "snap": 0,
    "dump": 1,
    "seed": 1,
    "device": "cpu",
    "ema": 1e-5,
    "set": {"network.num_blocks": 1, "network.attn_resolutions": [], "loop.grid_images": 0},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    archive = tmp_path_factory.mktemp("data") / "digits.zip"
    scripts.run("dataset_tool.py", "--source=builtin:digits", f"--dest={archive}", "--max-images=40")
    return archive


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def call(monkeypatch, capsys, data, tmp_path):
    """Run train.py in this process."""
    few = [f"--data={data}", "--cbase=8", "--cres=1", "--batch=4", "--seed=1", "--device=cpu", "--duration=0.000016"]
    few += ["--set=network.num_blocks=1", "--set=network.attn_resolutions=[]", "--tick=0.004", "--nosubdir"]
    return lambda *flags: scripts.call(monkeypatch, capsys, "train.py", *few, f"--outdir={tmp_path / 'run'}", *flags)


SIGNALS = """
import os, signal, threading
from elucid.training.hooks.base import Hook

class InGrid(Hook):
    def on_tick(self, run, values):
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGUSR1)).start()
"""


def states(folder):
    return sorted(path.name for path in folder.glob("training-state-*.pt"))


def test_sigusr1_in_a_grid_that_would_take_hours(call, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "LEAST", 1e9)
    (tmp_path / "mine.py").write_text(SIGNALS)
    flags = ["--snap=1", "--set=loop.grid_images=4", "--set=schedule.num_steps=1000000"]
    code, out, err = call(f"--hook={tmp_path / 'mine.py'}:InGrid", *flags)
    assert code == STOPPED and "continue with --resume=" in out and "Traceback" not in err
    assert states(tmp_path / "run") and not list((tmp_path / "run").glob("samples-*"))
    code, out, _ = call(f"--resume={tmp_path / 'run'}", "--set=hooks=[]", "--set=loop.grid_images=0")
    assert code == 0 and "resuming" in out and "done: " in out


def test_a_signal_in_the_start_leaves_nothing(call, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(600)\n"
    )
    code, _, err = call(f"--plugins={tmp_path / 'mine.py'}")
    assert code == STOPPED and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_time_limit_that_is_over_saves_and_ends(call, tmp_path):
    code, out, _ = call("--time-limit=1s", "--duration=1")
    assert code == STOPPED and "continue with --resume=" in out and states(tmp_path / "run")
    code, _, err = call("--time-limit=3:50")
    assert code == 2 and "error: --time-limit='3:50' is not a duration; write it like 3h50m" in err


def test_processes_whose_torchrun_is_killed_save_and_end(data, tmp_path):
    folder = tmp_path / "run"
    flags = [*scripts.TINY, f"--data={data}", "--duration=1", "--batch=4", "--tick=0.016", "--dump=1", "--nosubdir"]
    command = scripts.command("train.py", *flags, f"--outdir={folder}", processes=2)
    process = subprocess.Popen(command, env=scripts.environment(tmp_path), stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("tick 1"):
            process.kill()
            break
    began = time.monotonic()
    rest = process.stdout.read()  # until both processes have ended, which have the pipe
    assert time.monotonic() - began < 30
    process.wait()
    assert "stopped at" in rest and "continue with --resume=" in rest
    assert states(folder)


class Breaks(DSM):
    """A loss that is not finite in some steps."""

    bad: set[int] = set()
    seen = 0

    def forward(self, denoiser, batch, step):
        out = super().forward(denoiser, batch, step)
        Breaks.seen += 1
        if Breaks.seen in self.bad:
            out.loss = out.loss + torch.tensor([math.nan] + [0.0] * (len(batch) - 1))
        return out


@pytest.fixture
def train(data, tmp_path):
    def train(steps=8, hooks=(), folder=None, **options):
        folder = folder or tmp_path / "runs"
        chosen = {**OPTIONS, "data": data, "outdir": folder, "nosubdir": True, "duration": steps * 4e-6, **options}
        return elucid.train(elucid.TrainOptions(**chosen), hooks)

    Breaks.bad, Breaks.seen = set(), 0
    return train


def test_a_step_that_is_not_finite_is_left_out_and_counted(train):
    Breaks.bad = {3}
    folder = train(loss=Breaks)
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [line["Optimizer/steps_left_out"]["mean"] for line in lines] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert [line["Optimizer/grad_norm"]["num"] for line in lines] == [1, 1, 0, 1, 1, 1, 1, 1]
    state = torch.load(folder / "training-state-000000.032.pt", weights_only=True)
    assert state["optimizers"]["main"]["state"][0]["step"] == 7 and state["divergence"]["left_out"] == 1
    assert all(value.isfinite().all() for value in state["objective"].values())


def test_a_run_that_diverges_goes_back_once_with_other_data(train):
    Breaks.bad = {5, 6, 7}
    positions = []

    class Watches(Hook):
        def on_step(self, run, images):
            positions.append((run.nimg, run.stream.position))

    folder = train(loss=Breaks, max_bad_steps=3, hooks=[Watches()], dump=2)
    assert "going back to" in (folder / "log.txt").read_text() and "done: " in (folder / "log.txt").read_text()
    assert positions[6:8] == [(28, 28), (20, 32)], "back to the state of 16, which is before the first bad step"
    assert positions[-1][0] == 32, "it has all its images"
    kimg = [json.loads(line)["Progress/kimg"]["mean"] for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert kimg == sorted(set(kimg)), "no tick is there twice"


def test_a_run_that_diverges_again_ends_and_names_step_and_layer(train, tmp_path):
    Breaks.bad = set(range(5, 99))
    with pytest.raises(elucid.UserError, match=r"diverged after a return.*2 steps in a row.*step \d+, at .*Breaks"):
        train(loss=Breaks, max_bad_steps=2)
    assert states(tmp_path / "runs")[-1] == "training-state-000000.016.pt"


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_a_full_disk_keeps_the_last_good_state(train, tmp_path):
    """On a disk of three megabytes, which is filled while training."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]).returncode:
        pytest.skip("a small disk can be mounted as root only")

    class Fills(Hook):
        def on_tick(self, run, values):
            if run.tick == 2:
                wait_until((disk / "training-state-000000.004.pt").exists)  # it is written in the background
                (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 4096))
            if run.tick == 5:
                (disk / "filler").unlink()

    try:
        with pytest.raises(elucid.UserError, match="the last good state is .*000000.004.pt; free some room and go on"):
            train(folder=disk, hooks=[Fills()], keep_states=2)
        assert states(disk) == ["training-state-000000.004.pt"]
        (disk / "filler").unlink()
        train(folder=disk, hooks=[Fills()], keep_states=2, resume=disk, on_full_disk="continue")
        assert "training goes on (`on_full_disk`=continue)" in (disk / "log.txt").read_text()
        assert states(disk) == ["training-state-000000.028.pt", "training-state-000000.032.pt"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_clock_that_is_set_changes_nothing(train, monkeypatch):
    real = time.time

    class Sets(Hook):
        def on_tick(self, run, values):
            assert 0 < values["Timing/sec_per_tick"]["mean"] < 60 and 0 < values["Timing/total_sec"]["mean"] < 60
            monkeypatch.setattr(time, "time", lambda: real() + (-1) ** run.tick * 1e6)

    train(hooks=[Sets()], steps=4)


FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
def test_a_clock_of_the_system_that_jumps_changes_nothing(data, tmp_path):
    """A whole program under libfaketime, whose clock is set by days while it trains, with a time limit of an hour.

    Each setting is another (+1, -2, +3, ... days): two lines of the log share a clock only within one of them.
    """
    clock = tmp_path / "clock"
    clock.write_text("+0d")
    jumps = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME_TIMESTAMP_FILE": str(clock)}
    jumps |= {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    few = [f"--data={data}", "--cbase=8", "--cres=1", "--batch=4", "--seed=1", "--device=cpu", "--duration=0.0001"]
    few += ["--set=network.num_blocks=1", "--set=network.attn_resolutions=[]", "--tick=0.02", "--dump=5", "--nosubdir"]
    few += ["--set=loop.grid_images=0", "--time-limit=1h"]
    scripts.run("train.py", *few, f"--outdir={tmp_path / 'straight'}", folder=tmp_path)
    command = scripts.command("train.py", *few, f"--outdir={tmp_path / 'jumping'}")
    with subprocess.Popen(command, env={**scripts.environment(tmp_path), **jumps}, stdout=subprocess.PIPE) as job:
        days = 0
        while job.poll() is None:
            days = -days - 1 if days > 0 else 1 - days
            clock.write_text(f"{days:+d}d")
            time.sleep(0.1)
    assert job.returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "jumping" / "stats.jsonl").read_text().splitlines()]
    stamps = [line["timestamp"] for line in lines]
    assert max(stamps) - min(stamps) > 86400, "the clock has jumped"
    assert all(0 < line["Timing/total_sec"]["mean"] < 600 for line in lines)
    straight, jumping = (
        load_state(tmp_path / name / "training-state-000000.100.pt") for name in ("straight", "jumping")
    )
    assert not differences({**straight, "elapsed": 0}, {**jumping, "elapsed": 0})


@pytest.mark.parametrize("cache", ["0", "1"])
@pytest.mark.parametrize("harm", ["removed", "replaced"])
def test_a_data_set_that_goes_away_while_training(harm, cache, train, data, tmp_path):
    """The files that are open, or decoded in the cache, are used to the end."""
    copy = tmp_path / "copy.zip"
    shutil.copy(data, copy)

    class Harms(Hook):
        def on_start(self, run, folder):
            if harm == "removed":
                copy.unlink()
            else:
                (tmp_path / "other").write_bytes(b"no archive")
                os.replace(tmp_path / "other", copy)

    assert states(train(2, data=copy, cache=cache, hooks=[Harms()]))


def test_a_data_set_that_is_cut_while_training_is_one_line(train, data, tmp_path):
    copy = tmp_path / "copy.zip"
    shutil.copy(data, copy)

    class Cuts(Hook):
        def on_start(self, run, folder):
            os.truncate(copy, 500)

    with pytest.raises(elucid.UserError, match="copy.zip"):
        train(2, data=copy, cache="0", hooks=[Cuts()])


def test_a_read_only_folder_is_one_line(train, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", disk]).returncode:
        pytest.skip("a read-only disk can be mounted as root only")
    try:
        with pytest.raises(elucid.UserError, match=r"disk.* cannot .*Read-only file system"):
            train(1, folder=disk)
        with pytest.raises(elucid.UserError, match=r"disk.* cannot .*Read-only file system"):
            train(1, folder=disk, nosubdir=False)
    finally:
        subprocess.run(["umount", disk], check=True)


BREAKS_ON_ONE = """
import math
import torch
from elucid.torch_utils import distributed
from elucid.training.hooks.base import Hook
from elucid.training.losses.dsm import DSM

class Breaks(DSM):
    def forward(self, denoiser, batch, step):
        out = super().forward(denoiser, batch, step)
        if step.index == 2 and distributed.rank() == 1:
            out.loss = out.loss + math.inf  # whose gradient is finite
        return out

class Compares(Hook):
    def on_tick(self, run, values):
        sums = distributed.gather_objects([float(one.double().sum()) for one in run.denoiser.parameters()])
        assert len(sums) == 2 and sums[0] == sums[1]
        print("compared at step", run.index)
"""


def test_a_step_that_is_bad_on_one_process_is_left_out_on_all(data, tmp_path):
    (tmp_path / "mine.py").write_text(BREAKS_ON_ONE)
    own = [f"--loss={tmp_path}/mine.py:Breaks", f"--hook={tmp_path}/mine.py:Compares", "--set=loop.grid_images=0"]
    flags = [*scripts.TINY, *own, "--duration=0.000024", "--batch=4", "--tick=0.004", "--nosubdir", f"--data={data}"]
    done = scripts.run("train.py", *flags, f"--outdir={tmp_path / 'run'}", processes=2, folder=tmp_path)
    assert done.stdout.count("compared at step") == 12 and "not finite in step 2, at 0.0 kimg" in done.stdout
    state = torch.load(tmp_path / "run/training-state-000000.024.pt", weights_only=True)
    assert state["optimizers"]["main"]["state"][0]["step"] == 5 and state["divergence"]["left_out"] == 1
