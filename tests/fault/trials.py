"""Small runs for trials of signals and kills, in one process, under torchrun, and under two torchruns as two nodes."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from elucid.torch_utils.checkpoint import load_state
from tests import scripts

LENGTH = ["--duration=0.0032", "--batch=32", "--tick=0.064", "--dump=1", "--snap=3", "--ema=0.0005,0.001"]
KEEP = ["--keep-states=3", "--keep-snapshots=3", "--set=loop.grid_images=0"]
END = "training-state-000003.200.pt"


def make_data(folder: Path) -> Path:
    archive = folder / "digits.zip"
    scripts.run("dataset_tool.py", "--source=builtin:digits", f"--dest={archive}", "--max-images=100")
    return archive


class Trial:
    """One run folder that is started again and again; `nodes` x `processes` of each node."""

    def __init__(self, data: Path, folder: Path, nodes: int = 1, processes: int = 1):
        self.folder, self.nodes, self.processes = folder, nodes, processes
        flags = [*scripts.TINY, *LENGTH, *KEEP, "--cond=1", f"--data={data}"]
        self.arguments = [*flags, f"--outdir={folder}", "--nosubdir", "--resume=auto"]
        self.environment = scripts.environment(data.parent)
        self.log = folder.with_suffix(".log")

    def command(self, port: int) -> list[str]:
        handle = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={self.processes}", handle]
        where = ["--standalone"]
        if self.nodes > 1:
            end = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=trial"]
            where = [f"--nnodes={self.nodes}", *end, "--local-addr=127.0.0.1"]
        script = [str(scripts.ROOT / "train.py"), *self.arguments]
        return [sys.executable, *([*launch, *where] if self.nodes * self.processes > 1 else []), *script]

    def start(self) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with open(self.log, "ab") as log:
            options = {"env": self.environment, "stdout": log, "stderr": log, "start_new_session": True}
            return [subprocess.Popen(self.command(port), **options) for _ in range(self.nodes)]

    @property
    def done(self) -> bool:
        return (self.folder / END).is_file() and "done: " in (self.folder / "log.txt").read_text()

    def unreadable(self) -> list[str]:
        """States whose names are final but whose content is not whole."""
        bad = []
        for path in self.folder.glob("training-state-*.pt"):
            try:
                load_state(path)
            except Exception as error:  # noqa: BLE001  whatever it is, it is counted
                bad.append(f"{path.name}: {error}")
        return bad


def everyone(launchers: list[subprocess.Popen]) -> list[psutil.Process]:
    """The launchers and all their descendants."""
    found = []
    for one in launchers:
        try:
            process = psutil.Process(one.pid)
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for(launchers: list[subprocess.Popen], members: list[psutil.Process], seconds: float) -> float:
    """Wait until all have ended; returns the seconds that it took. Those that are left are killed, and it raises."""
    began = time.monotonic()
    while time.monotonic() - began < seconds and any(one.poll() is None for one in launchers):
        time.sleep(0.05)  # before psutil, which would take their exit codes
    own = {one.pid for one in launchers if one.poll() is not None}
    others = [one for one in members if one.pid not in own]
    _, left = psutil.wait_procs(others, timeout=max(seconds - (time.monotonic() - began), 0.1))
    if left:
        found = "\n".join(map(description, left))
        for one in left:
            one.kill()
        raise TimeoutError(f"{len(left)} processes after {seconds:g} s:\n{found}")
    return time.monotonic() - began


def description(process: psutil.Process) -> str:
    """What a process is, and where it stands if py-spy is installed."""
    try:
        text = f"{process.pid}, parent {process.ppid()}, {process.status()}: {' '.join(process.cmdline()[:4])}"
    except psutil.Error as error:
        return str(error)
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if spy:
        text += "\n" + subprocess.run([spy, "dump", "--pid", str(process.pid)], capture_output=True, text=True).stdout
    return text


def differences(one, other, place: str = "") -> list[str]:
    """Where two states differ in structure or bits, but for durations and options, which hold paths."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in {**one, **other} if key not in ("elapsed", "options")]
        if one.keys() != other.keys():
            return [f"{place}: keys"]
        return [found for key in keys for found in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [f"{place}: length"]
        return [
            found
            for i, pair in enumerate(zip(one, other, strict=True))
            for found in differences(*pair, f"{place}[{i}]")
        ]
    return [] if one == other else [place]


def undisturbed(data: Path, folder: Path, nodes: int, processes: int) -> Path:
    """A run that nothing disturbs."""
    trial = Trial(data, folder, nodes, processes)
    for one in trial.start():
        assert one.wait(600) == 0, trial.log.read_text()[-3000:]
    return folder


def wait_for_moment(trial: Trial, launchers: list[subprocess.Popen], rng: random.Random) -> bool:
    """Wait for a random moment, one in five in the start, else of the ticks to come; False if the run ends before it.

    Counted in ticks, so that other work on the machine does not move it.
    """
    stats = trial.folder / "stats.jsonl"

    def ticks() -> int:
        return len(stats.read_bytes().splitlines()) if stats.exists() else 0

    until = ticks() + rng.randint(1, 20) if rng.random() < 0.8 else 0
    end = time.monotonic() + (600 if until else rng.uniform(0, 4))
    while launchers[0].poll() is None and time.monotonic() < end and not (until and ticks() >= until):
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.2))  # anywhere in a step or save
    return launchers[0].poll() is None


def kill(launchers: list[subprocess.Popen], what: str, rng: random.Random) -> None:
    """SIGKILL one process: the `agent` (or the only process), or a random `rank`; `all` of them at once."""
    processes = everyone(launchers)
    workers = [one for one in processes if one.pid not in {launcher.pid for launcher in launchers}]
    chosen = {"agent": processes[:1], "rank": [rng.choice(workers)] if workers else processes[:1], "all": processes}[
        what
    ]
    for one in chosen:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


def signal_all(launchers: list[subprocess.Popen], number: int) -> None:
    for one in launchers:
        if one.poll() is None:
            os.kill(one.pid, signal.Signals(number))
