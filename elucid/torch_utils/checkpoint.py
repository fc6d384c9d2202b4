"""Training states as files of tensors and plain values, written atomically and read without running code."""

import re
from pathlib import Path

import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.dnnlib.reading import checksums
from elucid.torch_utils.distributed import print0
from elucid.torch_utils.guards.finite import require_finite
from elucid.torch_utils.guards.torch_files import load_torch
from elucid.torch_utils.sharding.states import FOLDER, load_parts

STATE_NAME = re.compile(r"training-state-(\d+(?:\.\d+)?)\.(?:pt|parts)")
"""States are files, or folders of parts that several processes have written together (`--shard`)."""
FINITE = ("objective", "ema", "optimizers", "optimizer", "nimg", "position", "elapsed")
"""Parts of a state that must be finite. Others, such as statistics of a step that overflowed, may not be."""
COUNTS = {"nimg", "index", "position", "tick", "tick_start_nimg"}
"""Parts of a state that count something."""


def save_state(path: Path, state: dict) -> None:
    """Write tensors, containers and plain values to `path` atomically, with a checksum.

    Raises UserError on failure, and before anything is written for weights, averages and moments that are not finite.
    """
    require_finite({name: state[name] for name in FINITE if name in state}, f"{path} is not saved")
    with write_output(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's error about missing bytes hides the cause
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        checksums.seal(file)


def load_state(path: Path) -> dict:
    """Load a state onto the CPU; from a folder of parts, which all processes must read together, without its tensors.

    Raises UserError if a file is damaged, contains anything but data, or has values that are not finite.
    """
    path = Path(path)
    if path.is_dir() and STATE_NAME.fullmatch(path.name):
        return load_parts(path, load_state)
    if not path.is_file():
        raise UserError(f"state not found: {path}; check `resume`")
    if path.suffix == ".pkl":
        raise UserError(
            f"{path} is a snapshot, which has no optimizer: resume from a training-state-*.pt of its run, or start a "
            f"new run from its weights with `transfer`={path}"
        )
    try:
        checked = checksums.verify(path)
        state = load_torch(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; check `resume`") from error
    except UserError as error:
        raise UserError(
            f"{path} is not an intact training state of this program ({error}); give an older one"
        ) from error
    if not isinstance(state, dict) or state.get("format") != "elucid-state":
        raise UserError(f"{path} is not a training state of this program; use `transfer` to start from a snapshot")
    require_finite({name: state[name] for name in FINITE if name in state}, str(path))
    for name in COUNTS & state.keys():
        if type(state[name]) is not int or not 0 <= state[name] < 1 << 62:
            raise UserError(f"{path} is damaged: its {name} is {state[name]!r}; resume from an older one")
    elapsed, processes = state.get("elapsed", 0.0), state.get("processes", [{}])
    if not isinstance(elapsed, (int, float)) or not isinstance(processes, list) or not processes:
        raise UserError(f"{path} is damaged: its elapsed or processes are missing; resume from an older one")
    if not checked:
        checksums.note_missing(path)
    state.pop(FOLDER, None)  # only `load_parts` says so
    return state


def states_in(folder: Path) -> list[Path]:
    """Return the states of a run folder, files and folders of parts, the newest last."""
    named = [(STATE_NAME.fullmatch(path.name), path) for path in Path(folder).glob("training-state-*")]
    return [path for _, path in sorted((float(match[1]), path) for match, path in named if match)]


def newest_state(folder: Path) -> tuple[Path, dict] | None:
    """Load the newest intact state of a run folder; returns its path and content, or None."""
    for path in reversed(states_in(folder)):
        try:
            return path, load_state(path)
        except UserError as error:
            print0(f"warning: {error}")
    return None
