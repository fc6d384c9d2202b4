"""Converts denoisers to plain data (class names, options, arrays) and back."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elucid.dnnlib.config import construct
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.unpickle import require_plain
from elucid.torch_utils.guards.budget import Budget
from elucid.torch_utils.guards.finite import require_finite
from elucid.training.preconds.base import Preconditioned
from elucid.training.registry import names
from elucid.training.snapshots.trust import load_class, name_in_files
from elucid.training.types import NetSpec

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8)
}

MOST_FEATURES = 1 << 16
"""Features of a learned weighting in a file; published are 128."""


def describe_denoiser(denoiser: Preconditioned, half: bool = False) -> dict:
    """Convert a denoiser to plain data, its weights in float16 if `half`; `rebuild_denoiser` is the inverse.

    Raises UserError if it was not created by `elucid.dnnlib.config.construct`, which records the options.
    """
    for part in (denoiser, denoiser.model):
        if not hasattr(part, "config"):
            raise UserError(
                f"{type(part).__name__} has no recorded options; create it with elucid.dnnlib.config.construct"
            )
    network, state = denoiser.model, denoiser.state_dict()
    if half:
        state |= {name: halved(value) for name, value in denoiser.named_parameters()}
    return {
        "name": name_in_files(names.PRECONDS, type(denoiser)),
        "options": denoiser.config["options"],
        "network": {"name": name_in_files(names.NETWORKS, type(network)), "options": without_features(network)},
        "spec": describe_spec(denoiser.spec),
        "state": {name: describe_tensor(value) for name, value in state.items()},
    }


def halved(weights: Tensor) -> Tensor:
    """Round weights to float16; those too large for it stay as they are."""
    rounded = weights.detach().to(torch.float16) if weights.dtype == torch.float32 else weights
    return rounded if torch.isfinite(rounded).all() else weights


def describe_spec(spec: NetSpec) -> dict[str, Any]:
    """Convert a spec to plain data, as earlier versions read it unless it has what they do not know."""
    content = dataclasses.asdict(spec)
    left_out = {"features", *(name for name in ("logvar_features", "arrays") if not content[name])}
    return {name: value for name, value in content.items() if name not in left_out}


def without_features(network: nn.Module) -> dict[str, Any]:
    """Return a network's options; what a loss sees of its inner layers is not part of a snapshot."""
    return {name: value for name, value in network.config["options"].items() if name != "features"}


def rebuild_denoiser(record: dict, state: dict[str, Tensor] | None = None) -> Preconditioned:
    """Rebuild a denoiser from `describe_denoiser`, on the CPU in eval mode; `state` replaces the record's weights.

    Raises UserError if a class is not trusted, an option does not exist or an array does not fit.
    """
    try:
        described = {name: value for name, value in record.items() if name != "state"}
        require_plain(described, "the denoiser's description")
        record = upgraded(record)
        network = record["network"]
        spec = read_spec(record["spec"])
        require_spec(network["options"], spec)
        if state is None:
            state = {name: rebuild_tensor(value) for name, value in record["state"].items()}
        return assemble(
            load_class(names.NETWORKS, network["name"], nn.Module), network["options"],
            load_class(names.PRECONDS, record["name"], Preconditioned), record["options"], spec, state,
        )  # fmt: skip
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"the denoiser's description is damaged ({type(error).__name__}: {error})") from error


def require_spec(options: dict, spec: NetSpec) -> None:
    """Raise UserError unless the network's options match the spec."""
    size = options["img_resolution"]
    asked = {"resolution": (size, size) if isinstance(size, int) else tuple(size)}
    there = {"resolution": spec.resolution, "label_dim": spec.label_dim, "augment_dim": spec.vector.get("augment", 0)}
    there |= {"in_channels": spec.in_channels, "out_channels": spec.out_channels, "vector": spec.vector}
    asked |= {name: options[name] for name in there if name in options}
    for name, value in asked.items():
        value = {} if value is None else value  # None means no conditions
        if there[name] != value:
            raise UserError(f"the network's {name} is {value}, but {there[name]} beside it; get the file again")


def describe_tensor(value: Tensor) -> dict:
    """Convert a tensor to dtype, shape and little-endian bytes."""
    value = value.detach().cpu().contiguous()
    name = str(value.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(f"tensors of type {name} cannot be stored in a snapshot; supported: {', '.join(DTYPES)}")
    return {"dtype": name, "shape": list(value.shape), "data": value.reshape(-1).view(torch.uint8).numpy().tobytes()}


def rebuild_tensor(record: dict) -> Tensor:
    """Rebuild a tensor from `describe_tensor`. Raises ValueError if shape and bytes do not match."""
    dtype, shape, data = DTYPES[record["dtype"]], record["shape"], record["data"]
    flat = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy()).view(dtype)
    if (
        len(shape) > 16
        or any(type(side) is not int or side < 0 for side in shape)
        or flat.numel() != int(np.prod(shape, dtype=object))
    ):
        raise ValueError(f"{len(data)} bytes for a {record['dtype']} tensor of shape {shape}")
    return flat.reshape(shape)


FORMAT_1 = {
    "training.networks.song_unet:SongUNet": "song_unet",
    "training.networks.adm_unet:DhariwalUNet": "adm",
    "training.preconds:VPPrecond": "vp",
    "training.preconds:VEPrecond": "ve",
    "training.preconds:iDDPMPrecond": "iddpm",
    "training.preconds:EDMPrecond": "edm",
}
"""Class names of format 1, whose modules have moved since, and the present ones."""


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a record of format 1 to format 2; return one of format 2 unchanged."""
    if "class" not in record:
        return record
    network, spec = record["network"], dict(record["spec"])
    vector = {"labels": spec.pop("label_dim", 0), "augment": spec.pop("augment_dim", 0)}
    spatial = {"coords": spec.pop("coord_channels", 0)}
    out_channels = spec["image_channels"] * (2 if spec.pop("learned_variance", False) else 1)
    options = dict(network["options"])
    if network["class"] in FORMAT_1:  # external networks still take the widths individually
        for option in ("label_dim", "augment_dim"):
            options.pop(option, None)
        options["vector"] = {name: width for name, width in vector.items() if width}
    return {
        **record,
        "name": renamed(record["class"]),
        "network": {"options": options, "name": renamed(network["class"])},
        "spec": {**spec, "out_channels": out_channels, "vector": vector, "spatial": spatial},
    }


def read_spec(record: dict[str, Any]) -> NetSpec:
    """Read the network spec of a snapshot. Raises ValueError if it is invalid."""
    spec = NetSpec(**{**record, "resolution": tuple(record["resolution"])})
    widths = [*spec.vector.items(), *spec.spatial.items()]
    if not all(type(name) is str and type(width) is int and width > 0 for name, width in widths):
        raise ValueError("invalid widths of the network's conditions")
    if type(spec.logvar_features) is not int or not 0 <= spec.logvar_features <= MOST_FEATURES:
        raise ValueError(f"invalid number of features of the learned weighting: {spec.logvar_features!r}")
    return spec


def renamed(name: str) -> str:
    """Return the present name of a format 1 class."""
    if name.startswith("training.") and name not in FORMAT_1:
        raise UserError(f"the snapshot names {name!r}, which does not exist in this program; get the file again")
    return FORMAT_1.get(name, name)


def assemble(
    network: type[nn.Module],
    network_options: dict[str, Any],
    precond: type[Preconditioned],
    precond_options: dict[str, Any],
    spec: NetSpec,
    state: dict[str, Tensor],
    buffers: dict[str, Tensor] | None = None,
) -> Preconditioned:
    """Build a denoiser with these weights by name, on the CPU in eval mode; random generators are not affected.

    Only `buffers` that the network has are used; others are constants derived from the options. Raises UserError naming
    a weight that is missing, has another shape, or is unexpected.
    """
    with torch.random.fork_rng(devices=[]):
        with _Blank(2 * sum(value.numel() for value in state.values())):
            model = construct(network, network_options)
        denoiser = construct(precond, precond_options, model=model, spec=spec)
    own = {"model": model, "uncertainty": getattr(denoiser, "uncertainty", None)}
    parts = [one.state_dict(prefix=f"{name}.") for name, one in own.items() if one is not None]
    wanted = {name: value for part in parts for name, value in part.items()}
    state = {**{name: value for name, value in (buffers or {}).items() if name in wanted}, **state}
    require_match(wanted, state)
    require_finite({name: state[name] for name in wanted if name in state}, "its weights")
    denoiser.load_state_dict(state)
    return denoiser.eval().requires_grad_(False)


class _Blank(Budget):
    """Skips random initialisation, since the weights are replaced, and limits the network by the file's weights."""

    SMALL = 1 << 24

    def __init__(self, budget: int):
        super().__init__(budget + self.SMALL, "the file's options describe a larger network than its weights")

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.rand, torch.randn) and (kwargs or {}).get("generator") is None:
            function = torch.zeros
        return super().__torch_function__(function, types, args, kwargs)


def require_match(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Raise UserError unless `state` has exactly the wanted tensors of the network."""
    for name, value in wanted.items():
        if name not in state:
            raise UserError(f"the file lacks the weights {name} that its options require")
        if state[name].shape != value.shape:
            there, asked = list(state[name].shape), list(value.shape)
            raise UserError(f"the weights {name} have shape {there}, but the options require {asked}")
    extra = next((name for name in state if name.startswith(("model.", "uncertainty.")) and name not in wanted), None)
    if extra:
        raise UserError(f"the file has unexpected weights {extra}, which do not match its options")
