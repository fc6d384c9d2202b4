"""Run the project's scripts as users do: in processes of their own, alone or under torchrun."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TINY = [
    "--cbase=16",
    "--cres=1,2",
    "--set=network.num_blocks=1",
    "--set=network.attn_resolutions=[]",
    "--set=optimizer.lr_rampup_kimg=0.1",
    "--set=loop.grid_images=4",
    "--seed=7",
    "--device=cpu",
]
"""train.py flags of a network that trains on two cores in seconds."""


def command(script: str, *args, processes: int = 1) -> list[str]:
    """The command line of a script."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    return [sys.executable, *launch, str(ROOT / script), *map(str, args)]


def environment(folder: Path | None = None) -> dict[str, str]:
    """One thread per process, and caches inside the test's own folder."""
    extra = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if folder is not None:
        extra["ELUCID_CACHE"] = str(folder / "cache")
    return {**os.environ, **extra}


def heed_ctrl_c() -> None:
    """For `preexec_fn`: SIGINT works, also where the tests were started in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(
    script: str, *args, processes: int = 1, folder: Path | None = None, code: int = 0
) -> subprocess.CompletedProcess:
    """Run to the end and check the exit code."""
    done = subprocess.run(
        command(script, *args, processes=processes),
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def call(monkeypatch, capsys, script: str, *args) -> tuple[int, str, str]:
    """Run in this process, which saves a second or two; returns exit code, stdout and stderr."""
    code = exit_code(monkeypatch, script, *args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def exit_code(monkeypatch, script: str, *args) -> int:
    monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return stop.value.code


def newest(folder, kind: str = "network-snapshot") -> Path:
    """The newest snapshot, `training-state` or picture of `samples` in a run folder."""
    return sorted(Path(folder).glob(f"{kind}-*"))[-1]
