"""Run folders: create a new one, or find one to resume."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.json_text import parse_json
from elucid.torch_utils.checkpoint import load_state, newest_state, states_in
from elucid.torch_utils.distributed import agent_store, print0
from elucid.torch_utils.sharding.states import remove_folder
from elucid.torch_utils.torchrun.errors import remember
from elucid.training.config.upgrade import upgraded

RESUMABLE = {
    "dataset.path",
    "dataset.cache",
    "dataset.gpu_share",
    "dataset.prefetch",
    "dataset.workers",
    "encoder.model",  # the path may change; the hash of the weights, stored in the state, may not
    "encoder.batch_size",
    "loop.batch_gpu",
    "loop.duration_mimg",
    "loop.compile",
    "loop.shard",
    "loop.checkpointing",
    "loop.bench",
    "loop.deterministic",
    "loop.channels_last",
    "loop.fused_kernels",
    "loop.winograd",
    "loop.tick_kimg",
    "loop.snapshot_ticks",
    "loop.state_ticks",
    "loop.grid_images",
    "loop.keep_snapshots",
    "loop.keep_states",
    "loop.milestone_kimg",
    "loop.on_full_disk",
    "loop.max_bad_steps",
    "sampler",  # used for sample grids, and the default for sampling from snapshots
    "schedule",
    "eval",
    "hooks",
    "loggers",
}
"""Options that may change when a run is resumed."""

WEIGHTS = re.compile(r"loss(\.base)*\.(features\.weights|teacher)")
"""Likewise, paths of files that may have moved."""


def new_folder(outdir: Path, description: str, nosubdir: bool = False) -> Path:
    """Create `outdir/NNNNN-description` with the next free number, or use `outdir` itself with `nosubdir`.

    Raises UserError if the folder cannot be created.
    """
    outdir = Path(outdir)
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        while not nosubdir:
            folder = outdir / f"{_next_number(outdir):05d}-{description}"
            with suppress(FileExistsError):  # another run has just taken the number
                folder.mkdir()
                return folder
    except OSError as error:
        raise UserError(f"`outdir`={outdir}: cannot create a run folder there: {error.strerror}") from error
    return outdir


def _next_number(outdir: Path) -> int:
    numbers = [int(match[1]) for path in outdir.glob("*-*") if (match := re.match(r"(\d+)-", path.name))]
    return max(numbers, default=-1) + 1


def find_state(resume: str, outdir: Path | None, description: str) -> tuple[Path, dict] | None:
    """Find the folder and state for `--resume`: a state file, a run folder, or `auto`.

    `auto` returns the newest intact state of the newest run with that description, for any number of processes. If
    there is none, it logs a note and returns None. Raises UserError if a given file or folder has no intact state.
    """
    if resume == "auto":
        if outdir is None:
            raise UserError("`resume`=auto needs `outdir`, the folder to search for runs")
        runs = [path for path in Path(outdir).glob("*-*") if re.match(r"\d+-", path.name)]
        same = [path for path in runs if _identity(path.name) == _identity(f"0-{description}")]
        for folder in [*sorted(same, reverse=True), Path(outdir)]:
            found = newest_state(folder)
            if found is not None:
                return folder, found[1]
        others = ", ".join(path.name for path in sorted(runs, reverse=True)[:3])
        there = f"; other runs there: {others}" if others else ""
        print0(f"note: --resume=auto found no state of a run {description} in {outdir}{there}; starting a new run")
        return None
    path = Path(resume)
    if path.is_dir() and path not in states_in(path.parent):
        found = newest_state(path)
        if found is None:
            raise UserError(f"`resume`={resume}: no intact training-state-* in the folder; give the folder of a run")
        return path, found[1]
    return path.parent, load_state(path)


def _identity(name: str) -> str:
    """Return a run folder's name without its number and number of processes."""
    return re.sub(r"-gpus\d+-", "-", re.sub(r"^\d+-", "", name))


def merge_options(state: dict, given: dict[str, object]) -> dict:
    """Return the options of a state, overridden by explicitly given ones (by dotted path).

    Raises UserError if a given option differs and may not change.
    """
    options = stored_options(state)
    options.setdefault("eval", {})  # newer than the format
    for path, value in given.items():
        node = options
        *parts, last = path.split(".")
        for part in parts:
            inner = node.get(part) if isinstance(node, dict) else None
            node = {} if inner is None else inner
        old = node.get(last)
        if agree(old, value):
            continue
        if path in RESUMABLE or path.partition(".")[0] in RESUMABLE or WEIGHTS.fullmatch(path):
            node[last] = value
            continue
        raise UserError(
            f"{path} is {old!r} in the run to be resumed, not {value!r}; leave it out, or use `transfer` for a new run"
        )
    return options


GROUPS = ("dataset", "loop")
COMPONENTS = ("encoder", "network", "precond", "loss", "optimizer", "lr_schedule", "ema", "sampler", "schedule")
OPTIONAL_COMPONENTS = ("augment", "lowres", "maps")
LISTS_OF_COMPONENTS = ("transforms", "hooks", "loggers")


def stored_options(state: dict) -> dict:
    """Return the options in a state, upgraded. Raises UserError if they are missing, or of another form."""
    text = state.get("options")
    if not isinstance(text, str):
        raise UserError("the state contains no options; resume from another one")
    options = parse_json(text, "the state's options")
    try:
        options = options if "sampler" in options else upgraded(options)  # format 1 had no sampler
        parts = [*(options[name] for name in COMPONENTS), *(options.get(name) for name in OPTIONAL_COMPONENTS)]
        parts += [one for name in LISTS_OF_COMPONENTS for one in options.get(name) or []]
        named = all(one is None or isinstance(one["name"], str) for one in parts)
        whole = named and all(isinstance(options[name], dict) for name in (*GROUPS, *COMPONENTS))
    except (LookupError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise UserError("the state's options are damaged; resume from another one")
    # Older runs go on with the same roundings.
    last = options["loop"].setdefault("channels_last", False)
    fused = options["loop"].pop("fused_norm", False)  # another kernel, which took channels first as well
    options["loop"].setdefault("fused_kernels", fused and last is not False)
    options["loop"].setdefault("winograd", False)
    return options


def agree(old: object, given: object) -> bool:
    """Return whether an option matches the given value; a component needs to match only the options given."""
    if isinstance(old, dict):
        given = {"name": given} if isinstance(given, str) else given
        return isinstance(given, dict) and all(agree(old.get(key), value) for key, value in given.items())
    if isinstance(old, (list, tuple)) and isinstance(given, (list, tuple)):
        return len(old) == len(given) and all(agree(*pair) for pair in zip(old, given, strict=True))
    return old == given or given == "auto"  # the state stores the resulting number


def started_again_without_memory() -> bool:
    """Return whether torchrun has started this process anew, but has no store that it shares with it."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0 and agent_store(alone=True) is None


def folder_before_restart(path: Path | None = None) -> Path | None:
    """Return the run folder in which torchrun's job trained before its processes were started again, None at first.

    With a `path`, remember it for that case.
    """
    found = remember("folder", None if path is None else str(path.resolve()))
    return None if found is None else Path(found)


@contextmanager
def claim(folder: Path, patience: float = 0) -> Iterator[None]:
    """Lock the folder against training by other processes; the lock is released when this process ends or is killed.

    Raises UserError if another process trains there, and still does after `patience` seconds: one whose torchrun was
    killed needs a while to save. Does nothing on file systems without locks.
    """
    handle = None
    with suppress(ImportError, OSError):
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        end, waits = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= end:
                    os.close(handle)
                    said = f"another process is training in {folder}; wait, or choose another `outdir`"
                    raise UserError(said) from error
            if not waits:
                waits = True
                print0(f"note: another process is training in {folder}; waiting for its end, at most {patience:g} s")
            time.sleep(0.2)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def holds_a_run(folder: Path) -> bool:
    """Return whether the folder contains states or snapshots."""
    return bool(states_in(folder)) or any(folder.glob("network-snapshot-*.pkl"))


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders left behind by a killed process."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)
