"""Autoencoders of latent diffusion: diffusers' `AutoencoderKL` by hub name, folder or file.

diffusers is an extra, imported only here and only when latents are wanted.
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


def read_config(model: str) -> dict[str, Any]:
    """The options an autoencoder was made with, its class's defaults filled in; weights are not loaded.

    `model` is a hub name, a folder as `save_pretrained` writes it, or a file of weights, beside which config.json lies
    or whose shape diffusers knows. Raises UserError if there is none or it is of another kind.
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
    """The autoencoder with its weights, float32, on the CPU, for evaluation only.

    Raises UserError when weights are missing, damaged or do not fit. The random generators are left as they were.
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
    return nn.Module.float(found).eval().requires_grad_(False)  # not its own `float`, which warns


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all weights with their names and shapes: the same for the same autoencoder in any kind of file."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


FLAGS = "--set encoder.model=PATH (dataset_tool.py encode: --model=PATH)"


def locate(model: str) -> Path | str:
    """The folder or file of that path, else the hub name. Raises UserError for what is neither."""
    path = Path(model).expanduser()
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith("."):
        return model
    raise UserError(f"VAE not found: {model}; give a folder, a file or a hub name by {FLAGS}")


def _diffusers() -> type:
    try:
        from diffusers import AutoencoderKL
    except (ImportError, RuntimeError) as error:  # RuntimeError: diffusers is there, and something it needs is not
        raise UserError(f"latents need the package diffusers ({error}); install it: pip install .[latents]") from error
    return AutoencoderKL


def _cached_first(load, source: str, **options):
    """What has been downloaded once is used as it is: no network is asked, and nothing changes behind a run's back."""
    try:
        return load(source, local_files_only=True, **options)
    except OSError:
        return load(source, **options)


def _config_of(file: Path) -> Path | None:
    """The config.json beside a file of weights, if there is one."""
    config = file.with_name("config.json")
    return config if config.is_file() else None


def _from_file(kind: type, file: Path) -> nn.Module:
    """By diffusers' own names with config.json beside it, as out of a folder; else in Stable Diffusion's names."""
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
        return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors.torch import load_file

    return load_file(file)


@contextmanager
def _failures(model: str):
    """What diffusers and its readers raise on damaged or absent files, as one line."""
    import pickle

    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
        what = "the file" if Path(model).expanduser().exists() else "the name and the network"
        raise UserError(f"VAE {model} cannot be loaded ({reason}); check {what}, or give another by {FLAGS}") from error
