"""A snapshot as a folder of `config.json` and `*.safetensors`: data that other programs read, too."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.dnnlib.reading.json_text import parse_json
from elucid.dnnlib.reading.regular import read_regular
from elucid.torch_utils.guards.finite import require_finite
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
    """Write averages by name and the other `parts` of a snapshot (plain data). Raises UserError if that fails.

    `config.json` has the SHA-256 of each file of weights, and of itself without that one.
    """
    save = safetensors_library().torch.save
    denoisers, first = {}, next(iter(emas))
    for name, denoiser in emas.items():
        # Copies, as the format has no tensors that share memory.
        state = {key: value.detach().cpu().clone().contiguous() for key, value in denoiser.state_dict().items()}
        require_finite(state, f"the average {name!r}")
        data = save(state, {"format": "pt", "ema": name})
        with write_output(Path(folder, weights_file(name, first))) as file:
            file.write(data)
        described = {key: value for key, value in describe_denoiser(denoiser).items() if key != "state"}
        denoisers[name] = {**described, "sha256": hashlib.sha256(data).hexdigest()}
    config = {"format": FORMAT, "version": VERSION, "denoisers": denoisers, **parts}
    config["sha256"] = digest(config)
    with write_output(Path(folder, CONFIG)) as file:
        file.write(json.dumps(config, indent=1).encode() + b"\n")


def digest(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a configuration without its own."""
    content = {key: value for key, value in config.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_weights_folder(weights: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read the `config.json` beside a `model.safetensors`, and the weights of each average by name.

    Raises UserError for files that are missing, damaged, or of a newer version.
    """
    path = weights.with_name(CONFIG)
    try:
        config = parse_json(read_regular(str(path)), str(path))
    except FileNotFoundError as error:
        raise UserError(f"{weights} needs the {CONFIG} that belongs to it; get both") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); get the file again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path} is not the configuration of a model of this program; check the path")
    if type(config.get("version")) is not int or config["version"] != VERSION:
        raise UserError(f"{path} has version {config.get('version')!r}; this program reads {VERSION}: update it")
    if config.get("sha256") != digest(config):
        raise UserError(f"{path} is damaged: its checksum does not match; get the file again")
    denoisers = config.get("denoisers")
    if not isinstance(denoisers, dict) or not all(isinstance(one, dict) for one in denoisers.values()) or not denoisers:
        raise UserError(f"{path} describes no model; get the file again")
    files = {name: weights.with_name(weights_file(name, next(iter(denoisers)))) for name in denoisers}
    return config, {name: _weights(file, denoisers[name].pop("sha256", None)) for name, file in files.items()}


def _weights(file: Path, expected: str | None) -> dict[str, Tensor]:
    """Read a file of weights. Raises UserError if it is damaged."""
    library = safetensors_library()
    try:
        data = file.read_bytes() if file.is_file() else None
        if data is not None and hashlib.sha256(data).hexdigest() == expected:
            return library.torch.load(data)
    except (OSError, library.SafetensorError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); get the file again") from error
    problem = "is missing" if data is None else "is damaged, or of another model"
    raise UserError(f"{file} {problem}; get the file again")


def safetensors_library():
    """Import safetensors, an optional package."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise UserError("safetensors is not installed; install it by: pip install 'elucid[hub]'") from error
    return safetensors
