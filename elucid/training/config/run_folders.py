"""Run folders: naming a new one, finding one to resume."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.checkpoint import load_state, newest_state
from elucid.torch_utils.distributed import print0
from elucid.training.config.upgrade import upgraded

RESUMABLE = {
    "dataset.path",
    "dataset.cache",
    "dataset.workers",
    "encoder.model",  # another path; the hash of the weights, which is in the state, stays
    "encoder.batch_size",
    "loop.batch_gpu",
    "loop.duration_mimg",
    "loop.compile",
    "loop.bench",
    "loop.tick_kimg",
    "loop.snapshot_ticks",
    "loop.state_ticks",
    "loop.grid_images",
    "sampler",  # of the grids, and of what samples the snapshot
    "schedule",
    "hooks",
    "loggers",
}
"""Options that a resumed run may change; any other would make it another run."""


def new_folder(outdir: Path, description: str, nosubdir: bool = False) -> Path:
    """Make `outdir/NNNNN-description` with the next free number (or take `outdir` itself).

    Raises UserError if that fails.
    """
    outdir = Path(outdir)
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        while not nosubdir:
            folder = outdir / f"{_next_number(outdir):05d}-{description}"
            with suppress(FileExistsError):  # another run took the number just now
                folder.mkdir()
                return folder
    except OSError as error:
        raise UserError(f"`outdir`={outdir}: no run folder can be made there: {error.strerror}") from error
    return outdir


def _next_number(outdir: Path) -> int:
    numbers = [int(match[1]) for path in outdir.glob("*-*") if (match := re.match(r"(\d+)-", path.name))]
    return max(numbers, default=-1) + 1


def find_state(resume: str, outdir: Path | None, description: str) -> tuple[Path, dict] | None:
    """Folder and state that `--resume` means: a state file, a run folder, or `auto`.

    `auto` gives the newest whole state of the newest run of that description, by whatever number of processes; where
    there is none yet it says so and gives None. Raises UserError if a named file or folder holds no whole state.
    """
    if resume == "auto":
        if outdir is None:
            raise UserError("`resume`=auto needs `outdir`, where it looks for runs")
        runs = [path for path in Path(outdir).glob("*-*") if re.match(r"\d+-", path.name)]
        same = [path for path in runs if _identity(path.name) == _identity(f"0-{description}")]
        for folder in [*sorted(same, reverse=True), Path(outdir)]:
            found = newest_state(folder)
            if found is not None:
                return folder, found[1]
        others = ", ".join(path.name for path in sorted(runs, reverse=True)[:3])
        there = f"; others are there: {others}" if others else ""
        print0(f"note: --resume=auto found no state of a run {description} in {outdir}{there}; a new run starts")
        return None
    path = Path(resume)
    if path.is_dir():
        found = newest_state(path)
        if found is None:
            raise UserError(f"`resume`={resume}: no whole training-state-*.pt in the folder; give a run's own one")
        return path, found[1]
    return path.parent, load_state(path)


def _identity(name: str) -> str:
    """What a run folder's name says of the run itself: not its number, nor how many processes it has."""
    return re.sub(r"-gpus\d+-", "-", re.sub(r"^\d+-", "", name))


def merge_options(state: dict, given: dict[str, object]) -> dict:
    """Options of a state with the explicitly given ones (by dotted path) laid over.

    Raises UserError for one that differs and may not change.
    """
    try:
        options = json.loads(state["options"])
        options = options if "sampler" in options else upgraded(options)  # format 1 had no sampler
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("the state holds no options; resume from another one") from error
    for path, value in given.items():
        node = options
        *parts, last = path.split(".")
        for part in parts:
            node = (node.get(part) or {}) if isinstance(node, dict) else {}
        old = node.get(last)
        if agree(old, value):
            continue
        if path in RESUMABLE or path.partition(".")[0] in RESUMABLE:
            node[last] = value
            continue
        raise UserError(
            f"{path} is {old!r} in the run to be resumed, not {value!r}; leave it out, or start anew with `transfer`"
        )
    return options


def agree(old: object, given: object) -> bool:
    """Whether an option is what was given; of a component that is given in part the rest may be anything."""
    if isinstance(old, dict):
        given = {"name": given} if isinstance(given, str) else given
        return isinstance(given, dict) and all(agree(old.get(key), value) for key, value in given.items())
    if isinstance(old, (list, tuple)) and isinstance(given, (list, tuple)):
        return len(old) == len(given) and all(agree(*pair) for pair in zip(old, given, strict=True))
    return old == given or given == "auto"  # which stands in the state as the number that it was


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Keep other processes from training in the same folder; the system gives it free when this one ends, or is killed.

    Raises UserError if another one trains there. Where a file system has no locks, nothing is checked.
    """
    handle = None
    with suppress(ImportError, OSError):
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise UserError(f"another process trains in {folder}; wait for it, or choose another `outdir`") from error
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def holds_a_run(folder: Path) -> bool:
    """Whether there are states or snapshots of a run already."""
    return any(any(folder.glob(pattern)) for pattern in ("training-state-*.pt", "network-snapshot-*.pkl"))


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a kill left behind while writing."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
