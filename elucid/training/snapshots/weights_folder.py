"""A snapshot as a folder of `config.json` and `*.safetensors`: data that other programs read, too."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.training.preconds.base import Preconditioned
from elucid.training.snapshots.records import describe_denoiser

FORMAT, VERSION = "elucid-model", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def weights_file(ema: str, first: str) -> str:
    """Return the file of an average: `model.safetensors` for the first, `model-NAME.safetensors` for others.

    Raises UserError for a name that could be a path.
    """
    if not re.fullmatch(r"[\w.,=+-]+", ema):
        raise UserError(f"the average {ema!r} has no name for a file; refused")
    return WEIGHTS if ema == first else f"model-{ema}.safetensors"


def save_weights_folder(
    folder: str | os.PathLike, emas: Mapping[str, Preconditioned], parts: Mapping[str, Any]
) -> None:
    """Write averages by name and the other `parts` of a snapshot (plain data). Raises UserError if that fails."""
    save = _safetensors().torch.save
    denoisers, first = {}, next(iter(emas))
    for name, denoiser in emas.items():
        denoisers[name] = {key: value for key, value in describe_denoiser(denoiser).items() if key != "state"}
        # Copies, as the format has no tensors that share memory.
        state = {key: value.detach().cpu().clone().contiguous() for key, value in denoiser.state_dict().items()}
        with write_output(Path(folder, weights_file(name, first))) as file:
            file.write(save(state, {"format": "pt", "ema": name}))
    config = {"format": FORMAT, "version": VERSION, "denoisers": denoisers, **parts}
    with write_output(Path(folder, CONFIG)) as file:
        file.write(json.dumps(config, indent=1).encode() + b"\n")


def read_weights_folder(weights: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read the `config.json` beside a `model.safetensors`, and the weights of each average by name.

    Raises UserError for files that are missing, damaged, or of a newer version.
    """
    library, path = _safetensors(), weights.with_name(CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{weights} needs the {CONFIG} that belongs to it; get both") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); get the file again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path} is not the configuration of a model of this program; check the path")
    if config.get("version") != VERSION:
        raise UserError(f"{path} has version {config.get('version')!r}; this program reads {VERSION}: update it")
    denoisers, states = config.get("denoisers"), {}
    if not isinstance(denoisers, dict) or not all(isinstance(one, dict) for one in denoisers.values()) or not denoisers:
        raise UserError(f"{path} describes no model; get the file again")
    for name in denoisers:
        file = weights.with_name(weights_file(name, next(iter(denoisers))))
        try:
            states[name] = library.torch.load_file(file)
        except (OSError, library.SafetensorError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); get the file again") from error
    return config, states


def _safetensors():
    """Import safetensors, an optional package."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError("safetensors is not installed; install it by: pip install 'elucid[hub]'") from error
    return safetensors
