"""Runs cells as jobs of SLURM, through the package submitit."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.evaluation.trainings.cells import Cell
from elucid.evaluation.trainings.jobs import Done, Failure, environment, run_serially

POLL = 0.5
"""Seconds between two looks at the jobs."""


def options_of(text: str) -> dict[str, Any]:
    """Return `partition=gpu,time=240` as options of `submitit.AutoExecutor`.

    Names without a prefix that submitit does not share between clusters are SLURM's own, e.g. partition, account, qos.
    """
    options: dict[str, Any] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name or not value:
            raise UserError(f"`slurm`={text}: {part!r} is not NAME=VALUE; e.g. partition=gpu,gpus_per_node=1,time=240")
        options[_NAMES.get(name, name)] = int(value) if value.isdigit() else value
    return options


_NAMES = {
    "time": "timeout_min",
    **{name: f"slurm_{name}" for name in ("partition", "account", "qos", "constraint", "gres", "reservation")},
}


def executor(folder: Path, options: Mapping[str, Any]):
    """Return an executor that logs to a folder. Raises UserError if submitit is missing, or for options it has not."""
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise UserError('`slurm` needs the package submitit: pip install ".[slurm]"') from error
    options = dict(options)
    try:
        made = submitit.AutoExecutor(folder=folder, cluster=options.pop("cluster", None))
        made.update_parameters(**{"name": "elucid-compare", "timeout_min": 24 * 60, **options})
    except (NameError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"`slurm`: {' '.join(str(error).split())}") from error
    return made


def run_there(cells: Sequence[Cell], folder: Path, options: Mapping[str, Any], done: Done) -> None:
    """Run each cell as a job; all are cancelled if this process is interrupted."""
    made = executor(folder, options)
    with _importable():
        jobs = [(cell, made.submit(run_serially, cell)) for cell in cells]
    left = list(jobs)
    try:
        while left:
            for pair in list(left):
                cell, job = pair
                if not job.done():
                    continue
                left.remove(pair)
                error = job.exception()
                lost = (
                    None if error is None else Failure(f"the job of {cell.name}", _line(error), Path(job.paths.stderr))
                )
                done(cell, lost if error is not None else job.result())
            time.sleep(POLL)
    finally:
        for _, job in left:
            job.cancel()


@contextmanager
def _importable():
    """Let the jobs inherit an environment in which they find this package."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = environment(1, 0)["PYTHONPATH"]
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
