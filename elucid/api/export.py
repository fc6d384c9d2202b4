"""Converts snapshots to files of other programs and back."""

import os
from collections.abc import Sequence
from pathlib import Path

from elucid.api.model_card import model_card
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable, write_output
from elucid.dnnlib.remote.hub import SCHEME, parsed, push_folder
from elucid.training.snapshots.diffusers_folder import INDEX, UNET, diffusers_files
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot, save_folder, save_snapshot
from elucid.training.snapshots.transformers.writer import original_state
from elucid.training.snapshots.trust import import_plugins
from elucid.training.snapshots.weights_folder import CONFIG

CARD = "README.md"


def to_folder(
    network: str | os.PathLike,
    dest: str | os.PathLike,
    *,
    ema: str | None = None,
    license: str | None = None,
    plugins: Sequence[str] = (),
    push_to_hub: str | None = None,
    private: bool = False,
) -> str:
    """Write a snapshot as a folder of `config.json`, `*.safetensors` and a model card, and return the folder.

    `network` may be any model that `elucid.load` reads. The folder is one, too: `elucid.load(dest)` gives the same
    weights and samples. `license` is the SPDX name of the weights' licence, for the card. `push_to_hub`="user/name"
    uploads the folder as well, and its address is returned. Raises UserError if `dest` has other files.
    """
    if push_to_hub is not None:
        parsed(f"{SCHEME}{push_to_hub}")
    folder, snapshot = Path(dest), opened(network, ema, plugins)
    require_free(folder)
    save_folder(folder, snapshot)
    with write_output(folder / CARD) as file:
        file.write(model_card(snapshot, license, folder_of(network)).encode())
    return str(folder) if push_to_hub is None else push_folder(folder, push_to_hub, private)


def to_diffusers(
    network: str | os.PathLike, dest: str | os.PathLike, *, ema: str | None = None, plugins: Sequence[str] = ()
) -> Path:
    """Write a model of discrete diffusion as a folder that the diffusers library reads, and return the folder.

    `DDPMPipeline.from_pretrained(dest)` samples from it, and `UNet2DModel.from_pretrained(dest, subfolder="unet")` is
    the network. Raises UserError naming the first option of the model that has no equal there.
    """
    folder = Path(dest)
    files = diffusers_files(opened(network, ema, plugins))
    require_free(folder, UNET)
    for name, content in files.items():
        with write_output(folder / name) as file:
            file.write(content)
    if INDEX not in files:
        (folder / INDEX).unlink(missing_ok=True)  # of an earlier export
    return folder


def to_snapshot(
    network: str | os.PathLike, dest: str | os.PathLike, *, ema: str | None = None, plugins: Sequence[str] = ()
) -> Path:
    """Write a model, such as a folder of `to_folder`, as a snapshot file, and return its path."""
    path = Path(dest)
    if path.suffix != ".pkl":
        raise UserError(f"`dest`={dest} must end in .pkl, as snapshots do")
    require_writable(path)
    save_snapshot(path, opened(network, ema, plugins))
    return path


def to_state_dict(
    network: str | os.PathLike, dest: str | os.PathLike, *, ema: str | None = None, plugins: Sequence[str] = ()
) -> Path:
    """Write the weights of one average, by the network's own names, for `torch.load(dest, weights_only=True)`.

    A transformer's have the names of its original program, and the fixed tables that this stores.
    """
    import torch

    path = Path(dest)
    if path.suffix not in (".pt", ".pth"):
        raise UserError(f"`dest`={dest} must end in .pt or .pth")
    require_writable(path)
    state = original_state(opened(network, ema, plugins).ema.model)
    with write_output(path) as file:
        torch.save({name: value.detach().cpu().clone() for name, value in state.items()}, file)
    return path


def opened(network: str | os.PathLike, ema: str | None, plugins: Sequence[str]) -> Snapshot:
    """Load a snapshot on the CPU."""
    import_plugins(plugins)
    return load_snapshot(network, "cpu", ema)


def folder_of(network: str | os.PathLike) -> Path | None:
    """Return the folder of a snapshot on this machine, which may be that of its run."""
    path = Path(network)
    return path if path.is_dir() else path.parent if path.is_file() else None


def require_free(folder: Path, marker: str = CONFIG) -> None:
    """Raise UserError unless a folder is new, empty, or an earlier export, which has the file `marker`."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"`dest`={folder} is a file; give the name of a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).is_file():
        raise UserError(f"`dest`={folder} has other files; give a new folder")
    require_writable(folder / marker)
