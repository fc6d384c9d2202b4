"""Loads autoencoders of latent diffusion, diffusers' `AutoencoderKL`, by hub name, folder or file.

diffusers is an optional dependency, imported only here and only for latents.
"""

import hashlib
import inspect
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.guards.torch_files import load_torch


def read_config(model: str) -> dict[str, Any]:
    """Read the config of an autoencoder with defaults filled in, without loading weights.

    `model` is a hub name, a folder written by `save_pretrained`, or a file of weights, either next to its config.json
    or with a layout that diffusers knows. Raises UserError if it is missing or of another class.
    """
    kind, source = _diffusers(), locate(model)
    with _failures(model):
        if isinstance(source, Path) and source.is_file() and not _config_of(source):
            config = dict(kind.from_single_file(str(source)).config)
        else:
            folder = str(source.parent if isinstance(source, Path) and source.is_file() else source)
            config = _cached_first(kind.load_config, folder)
    if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise UserError(f"VAE {model} is of class {config['_class_name']}; give an AutoencoderKL by encoder.model")
    parameters = inspect.signature(kind.__init__).parameters.values()
    config = {one.name: one.default for one in parameters if one.default is not one.empty} | config
    counts = config["block_out_channels"], [config["in_channels"]], [config["latent_channels"]]
    if not all(isinstance(one, (list, tuple)) and one and all(type(n) is int and n > 0 for n in one) for one in counts):
        raise UserError(f"VAE {model}: its config.json is damaged; get it again")
    return config


def read_model(model: str) -> nn.Module:
    """Load the autoencoder with its weights, float32, on the CPU in eval mode.

    Raises UserError if weights are missing, damaged or do not fit. Random generators are not affected.
    """
    kind, source = _diffusers(), locate(model)
    with _failures(model), torch.random.fork_rng(devices=[]):
        if isinstance(source, Path) and source.is_file():
            found = _from_file(kind, source)
        else:
            load = kind.from_pretrained
            found, report = _cached_first(load, str(source), low_cpu_mem_usage=False, output_loading_info=True)
            if report["missing_keys"]:
                raise ValueError(f"it lacks the weights {report['missing_keys'][0]}")
    return nn.Module.float(found).eval().requires_grad_(False)  # the class's own `float` warns


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of all weights with names and shapes, which does not depend on the file format."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


FLAGS = "--set encoder.model=PATH (dataset_tool.py encode: --model=PATH)"


def locate(model: str) -> Path | str:
    """Return the folder or file with that path, or else the hub name. Raises UserError if it is neither."""
    path = Path(model).expanduser()
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith("."):
        return model
    raise UserError(f"VAE not found: {model}; give a folder, a file or a hub name by {FLAGS}")


def _diffusers() -> type:
    try:
        from diffusers import AutoencoderKL
    except (ImportError, RuntimeError) as error:  # RuntimeError: a dependency of diffusers is missing
        raise UserError(f"latents need the package diffusers ({error}); install it: pip install .[latents]") from error
    return AutoencoderKL


def _cached_first(load, source: str, **options):
    """Use downloaded files without network access if they exist, so that they do not change during a run."""
    try:
        return load(source, local_files_only=True, **options)
    except OSError:
        return load(source, **options)


def _config_of(file: Path) -> Path | None:
    """Return the config.json next to a file of weights, if any."""
    config = file.with_name("config.json")
    return config if config.is_file() else None


def _from_file(kind: type, file: Path) -> nn.Module:
    """Load a file with diffusers' parameter names and its config.json, or with Stable Diffusion's names."""
    config = _config_of(file)
    if config is None:
        return kind.from_single_file(str(file))
    state = _read_state(file)
    if not any(name.startswith("encoder.down_blocks.") for name in state):
        return kind.from_single_file(str(file), config=str(file.parent))
    model = kind.from_config(kind.load_config(str(file.parent)))
    model.load_state_dict(state)
    return model


def _read_state(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        return load_torch(file)
    from safetensors.torch import load_file

    return load_file(file)


@contextmanager
def _failures(model: str):
    """Convert errors of diffusers for damaged or missing files to UserError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, UserError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
        what = "the file" if Path(model).expanduser().exists() else "the name and the network"
        raise UserError(f"VAE {model} cannot be loaded ({reason}); check {what}, or give another by {FLAGS}") from error
