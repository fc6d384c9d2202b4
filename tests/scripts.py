"""Run the project's scripts as users do: in processes of their own, alone or several that train together."""

import atexit
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from elucid.start import SPINS

ROOT = Path(__file__).resolve().parent.parent
GIVEN = dict(os.environ)
"""The environment of the tests before any of them changed it."""

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
    script: str, *args, processes: int = 1, folder: Path | None = None, code: int = 0, torchrun: bool = False
) -> subprocess.CompletedProcess:
    """Run to the end and check the exit code.

    The processes are new ones, several under torchrun, if `torchrun` says so, which is what tests of failures are
    about, with CUDA, and in an environment that was changed where imports may look at it; else `tests/warm.py` forks
    them.
    """
    done = finished(environment(folder), script, *args, processes=processes, torchrun=torchrun)
    under_torchrun = processes > 1 and done.args[:1] == [sys.executable]  # whose own exit code of any failure is 1
    assert done.returncode in (code, 1 if code and under_torchrun else code), (
        f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done


def finished(
    environ: dict[str, str], script: str, *args, processes: int = 1, torchrun: bool = False
) -> subprocess.CompletedProcess:
    """As `run`, in an environment of one's own, and whatever the exit code."""
    if torchrun or torch.cuda.is_available() or not like_that_of_the_warm(environ):
        return subprocess.run(
            command(script, *args, processes=processes), env=environ, capture_output=True, text=True, timeout=PATIENCE
        )
    return run_warm([str(ROOT / script), *map(str, args)], environ, processes)


PATIENCE = 300.0
"""Seconds that a script may take."""

READ_LATE = ("ELUCID_", "HF_", "PATH", "PYTEST_", "COLUMNS", "GOMP_SPINCOUNT", "PWD")
READ_LATE += ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR")  # which inductor sets itself
"""Environment variables, or how they begin, at which nothing looks that the warm process has imported."""


def environment_of_the_warm() -> dict[str, str]:
    spins = {"GOMP_SPINCOUNT": SPINS}  # as `elucid/start.py` does before it imports torch
    return {**spins, **GIVEN, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def like_that_of_the_warm(environ: dict[str, str]) -> bool:
    changed = environ.items() ^ environment_of_the_warm().items()
    return all(name.startswith(READ_LATE) for name, _ in changed)


@cache
def warm() -> subprocess.Popen:
    """The process that has torch imported; one for each process of the tests, to the end of it."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/warm.py")],
        env=environment_of_the_warm(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # so that all it has started can be ended
    )
    atexit.register(end_warm, process)
    return process


def end_warm(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    warm.cache_clear()


def run_warm(argv: list[str], environ: dict[str, str], processes: int) -> subprocess.CompletedProcess:
    """As `subprocess.run`, in copies of the warm process; with several, they have a store as torchrun's."""
    environs = [environ]
    if processes > 1:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        common = {**environ, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
        common |= {"MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
        environs = [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in range(processes)]
        environs = [{name: str(value) for name, value in one.items()} for one in environs]
    with tempfile.TemporaryDirectory() as place:
        said = {name: Path(place, name) for name in ("stdout", "stderr")}
        for path in said.values():
            path.touch()
        request = {"argv": argv, "cwd": os.getcwd(), "processes": environs, **{k: str(v) for k, v in said.items()}}
        process = warm()
        process.stdin.write((json.dumps(request) + "\n").encode())
        process.stdin.flush()
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            end_warm(process)
            raise subprocess.TimeoutExpired(argv, PATIENCE, *(path.read_bytes() for path in said.values()))
        answer = process.stdout.readline()
        assert answer, "tests/warm.py has ended"
        codes = json.loads(answer)
        code = next((one for one in codes if one), 0)
        return subprocess.CompletedProcess(argv, code, *(path.read_text() for path in said.values()))


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


def caller(folder: Path, monkeypatch, capsys):
    """A function that calls a script in a folder, in this process, checks its exit code, and returns all it said."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ELUCID_CACHE", str(folder / "cache"))

    def run(script: str, *args, code: int = 0) -> str:
        found, out, err = call(monkeypatch, capsys, script, *args)
        assert found == code, err or out
        return out + err

    return run
