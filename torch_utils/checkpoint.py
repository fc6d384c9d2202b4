"""States of a run as files of tensors and plain values: written whole, read without running code.

Read next: `training/snapshot.py`, the other kind of file a run writes.
"""

import pickle
import re
import zipfile
from pathlib import Path

import torch

from dnnlib.errors import UserError
from dnnlib.files import atomic_write

STATE_NAME = re.compile(r"training-state-(\d+)\.pt")


def save_state(path: Path, state: dict) -> None:
    """Write tensors, containers and plain values to `path`, whole or not at all."""
    with atomic_write(path) as file:
        torch.save(state, file)


def load_state(path: Path) -> dict:
    """Read a state onto the CPU. Raises UserError if the file is damaged or holds anything but data."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"state not found: {path}; check --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no whole state of this program ({reason}); resume from an older one") from error
    if not isinstance(state, dict) or state.get("format") != "elucid-state":
        raise UserError(f"{path} holds no training state of this program; use --transfer to start from a snapshot")
    return state


def newest_state(folder: Path) -> tuple[Path, dict] | None:
    """The newest state in a run folder that can be read whole, or None."""
    paths = [path for path in Path(folder).glob("training-state-*.pt") if STATE_NAME.fullmatch(path.name)]
    for path in sorted(paths, key=lambda path: int(STATE_NAME.fullmatch(path.name)[1]), reverse=True):
        try:
            return path, load_state(path)
        except UserError as error:
            print(f"warning: {error}")
    return None
