"""Runs cells in subprocesses, several at once; none outlives this process."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from elucid.dnnlib.errors import UserError
from elucid.evaluation.trainings.cells import Cell, Command, shown

ROOT = Path(__file__).resolve().parents[3]
"""The folder that holds the package."""
PATIENCE = 60.0
"""Seconds that a subprocess gets to save its state when it is told to stop."""


@dataclass(frozen=True)
class Failure:
    """A subprocess that failed: what it was, and the last line that it said."""

    what: str
    last_line: str
    log: Path

    def __str__(self) -> str:
        return f"{self.what} failed: {self.last_line} (see {self.log})"


Done = Callable[[Cell, Failure | None], None]
"""Told of each cell when it has ended."""


def environment(jobs: int, slot: int, processes: int = 1) -> dict[str, str]:
    """Return the variables of a subprocess: it finds this package, and has its share of the cores and GPUs."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(max(1, cores // (jobs * processes)), int(os.environ.get("OMP_NUM_THREADS") or cores))
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
    gpus = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    if len(gpus) > processes:
        first = slot * processes % len(gpus)
        own["CUDA_VISIBLE_DEVICES"] = ",".join((gpus + gpus)[first : first + processes])
    return {**os.environ, **own}


class _Running:
    """A cell, the generator of its steps, and the subprocess of the current one."""

    def __init__(self, cell: Cell, slot: int, jobs: int):
        self.cell, self.slot, self.steps = cell, slot, cell.steps()
        self.environment = environment(jobs, slot, cell.processes)
        self.output = cell.folder / "output.tmp"
        self.process: subprocess.Popen | None = None
        self.command: Command | None = None

    def advance(self, output: str | None) -> bool:
        """Start the next step; return False if there is none."""
        try:
            self.command = self.steps.send(output)  # type: ignore[arg-type]
        except StopIteration:
            return False
        self.cell.folder.mkdir(parents=True, exist_ok=True)
        with open(self.cell.log, "ab") as log, open(self.output, "wb") as out:
            log.write(f"\n$ {shown(self.command)}\n".encode())
            log.flush()
            streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": log}
            # A session of its own: Ctrl-C reaches it once, from `stop`, and its children with it.
            self.process = subprocess.Popen(self.command.argv, env=self.environment, start_new_session=True, **streams)
        return True

    def ended(self) -> str | Failure | None:
        """Return what the subprocess printed, or its failure; None while it runs."""
        assert self.process is not None and self.command is not None
        code = self.process.poll()
        if code is None:
            return None
        output = self.output.read_text(encoding="utf-8", errors="replace")
        with open(self.cell.log, "a", encoding="utf-8") as log:
            log.write(output)
        self.output.unlink()
        if code == 0:
            return output
        return Failure(f"{self.command.what} of {self.cell.name}", said_last(self._said(), code), self.cell.log)

    def _said(self) -> str:
        """Return what the current step wrote to the log."""
        text = self.cell.log.read_text(encoding="utf-8", errors="replace")
        return text[text.rfind("\n$ ") + 1 :].partition("\n")[2]

    def stop(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def run_here(cells: Sequence[Cell], jobs: int, done: Done) -> None:
    """Run cells in order, `jobs` at once. A failure ends only its own cell."""
    waiting, running = list(cells), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                slot = min(set(range(jobs)) - {one.slot for one in running})
                one = _Running(waiting.pop(0), slot, jobs)
                if one.advance(None):
                    running.append(one)
                else:
                    done(one.cell, None)
            time.sleep(0.05)
            for one in list(running):
                found = one.ended()
                if found is None:
                    continue
                if isinstance(found, Failure) or not one.advance(found):
                    running.remove(one)
                    done(one.cell, found if isinstance(found, Failure) else None)
    finally:
        stop_all(running)


def stop_all(running: Sequence[_Running]) -> None:
    """Ask all subprocesses to stop, so that trainings save their states, and kill those that do not."""
    for one in running:
        one.stop(signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    try:
        for one in running:
            if one.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    one.process.wait(max(0.0, until - time.monotonic()))
    finally:  # also after a second Ctrl-C
        for one in running:
            one.stop(signal.SIGKILL)
            one.output.unlink(missing_ok=True)


def run_serially(cell: Cell) -> Failure | None:
    """Run one cell to its end in this process's place: the job of a cluster."""
    failures: list[Failure] = []
    run_here([cell], 1, lambda _, failure: failures.append(failure) if failure else None)
    return failures[0] if failures else None


def run_command(command: Command) -> str:
    """Run one subprocess and return its stdout. Raises UserError with the last line of its stderr."""
    done = subprocess.run(command.argv, env=environment(1, 0), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise UserError(said_last(done.stderr, done.returncode))
    return done.stdout


def said_last(text: str, code: int) -> str:
    """Return the error, or else the last line that is no progress bar, or else how the process ended."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    said = [line for line in lines if not re.search(r"\d+%\|", line)]
    return said[-1] if said else f"exit code {code}"
