"""Reference vectors: where they lie, how parameters are filled, how closeness is measured."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

FOLDER = Path(os.environ.get("VECTORS", Path(__file__).parent / "vectors"))


def cases(pattern: str) -> list[Path]:
    """JSON files of a pattern such as `networks/*`, sorted; empty when the folder has none."""
    return sorted(path for path in FOLDER.glob(f"{pattern}.json"))


def load(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Description and arrays of one case."""
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        return json.loads(path.read_text()), dict(arrays)


def formula(salt: str, name: str, shape) -> torch.Tensor:
    """The value that the reference's parameter `name` was filled with."""
    values = np.random.RandomState(zlib.crc32(f"{salt}:{name}".encode())).randn(*shape)
    if name.endswith("freqs"):
        values = 16 * values
    elif len(shape) >= 2:
        values = values / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values = 0.1 * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def fill(module: nn.Module, salt: str, shapes: dict[str, list[int]], rename=lambda name: name) -> None:
    """Fill a module by the formula; its names, after `rename`, must be the reference's, neither more nor fewer."""
    state = {name: formula(salt, name, shape) for name, shape in shapes.items()}
    module.load_state_dict({rename(name): value for name, value in state.items()}, strict=True)


def relative_error(value, reference) -> float:
    """|value - reference| / |reference|, Euclidean norms over all elements, in float64."""
    value = torch.as_tensor(value).detach().cpu().double()
    reference = torch.as_tensor(reference).double()
    assert value.shape == reference.shape, f"shape {tuple(value.shape)} is not {tuple(reference.shape)}"
    return float((value - reference).norm() / reference.norm().clamp_min(1e-300))


def denoiser(case: dict, kind: str | None = None, fill_parameters: bool = True):
    """The denoiser that a case's `precond` and `kwargs` describe, filled by the formula."""
    from elucid.dnnlib.config import lookup
    from elucid.training.networks.dhariwal_unet import DhariwalUNet
    from elucid.training.networks.song_unet import SongUNet
    from elucid.training.registry.names import PRECONDS
    from elucid.training.types import NetSpec

    kwargs = dict(case["kwargs"])
    kind = kind or case.get("precond", "EDMPrecond")
    channels, resolution = kwargs.pop("img_channels"), kwargs.pop("img_resolution")
    coords = channels - kwargs["out_channels"] if "out_channels" in kwargs else 0
    out_channels = kwargs.pop("out_channels", channels * (2 if kind == "iDDPMPrecond" else 1))
    network = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}[kwargs.pop("model_type", "SongUNet")]
    spec = NetSpec(
        resolution=(resolution, resolution),
        image_channels=channels - coords,
        out_channels=out_channels,
        vector={"labels": kwargs.get("label_dim", 0), "augment": kwargs.get("augment_dim", 0)},
        spatial={"coords": coords},
    )
    kwargs = network_options(kwargs)
    net = network(img_resolution=resolution, in_channels=channels, out_channels=out_channels, **kwargs)
    result = lookup(PRECONDS, kind.removesuffix("Precond").lower(), "preconditioner")(net, spec)
    if fill_parameters:
        fill(result, case["salt"], case["parameters"])
    return result


def network_options(kwargs: dict) -> dict:
    """The reference's options of a network as ours: the widths of its conditions together."""
    widths = {"labels": kwargs.get("label_dim", 0), "augment": kwargs.get("augment_dim", 0)}
    rest = {name: value for name, value in kwargs.items() if name not in ("label_dim", "augment_dim")}
    return {**rest, "vector": {name: width for name, width in widths.items() if width}}


def parameters_of(case: dict) -> dict[str, list[int]]:
    """The case's parameter shapes; where it does not list them, those of the denoiser it describes."""
    if "parameters" in case:
        return case["parameters"]
    return {name: list(value.shape) for name, value in denoiser(case, fill_parameters=False).state_dict().items()}
