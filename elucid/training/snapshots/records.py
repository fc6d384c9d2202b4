"""Denoisers as data and back: class names, options and arrays. Published checkpoints end here, too."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from elucid.dnnlib.config import construct
from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Preconditioned
from elucid.training.registry import names
from elucid.training.snapshots.trust import registered_name, trusted_class
from elucid.training.types import NetSpec

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8)
}


def describe_denoiser(denoiser: Preconditioned) -> dict:
    """A denoiser as plain data; `rebuild_denoiser` is the way back.

    Raises UserError if it was not made by `elucid.dnnlib.config.construct`, which notes the options.
    """
    for part in (denoiser, denoiser.model):
        if not hasattr(part, "config"):
            raise UserError(
                f"{type(part).__name__} does not know its options; make it with elucid.dnnlib.config.construct"
            )
    network = denoiser.model
    return {
        "name": registered_name(names.PRECONDS, type(denoiser)),
        "options": denoiser.config["options"],
        "network": {"name": registered_name(names.NETWORKS, type(network)), "options": network.config["options"]},
        "spec": dataclasses.asdict(denoiser.spec),
        "state": {name: describe_tensor(value) for name, value in denoiser.state_dict().items()},
    }


def rebuild_denoiser(record: dict) -> Preconditioned:
    """The denoiser that `describe_denoiser` described, on the CPU, for evaluation.

    Raises UserError if a class is not trusted_class, an option does not exist or an array does not fit.
    """
    try:
        record = upgraded(record)
        network = record["network"]
        spec = read_spec(record["spec"])
        require_spec(network["options"], spec)
        state = {name: rebuild_tensor(value) for name, value in record["state"].items()}
        return assemble(
            trusted_class(names.NETWORKS, network["name"], nn.Module), network["options"],
            trusted_class(names.PRECONDS, record["name"], Preconditioned), record["options"], spec, state,
        )  # fmt: skip
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"the denoiser's description is damaged ({type(error).__name__}: {error})") from error


def require_spec(options: dict, spec: NetSpec) -> None:
    """Raise UserError unless the network was made for this spec."""
    size = options["img_resolution"]
    asked = {"resolution": (size, size) if isinstance(size, int) else tuple(size)}
    there = {"resolution": spec.resolution, "label_dim": spec.label_dim, "augment_dim": spec.vector.get("augment", 0)}
    there |= {"in_channels": spec.in_channels, "out_channels": spec.out_channels, "vector": spec.vector}
    asked |= {name: options[name] for name in there if name in options}
    for name, value in asked.items():
        value = {} if value is None else value  # how a network writes that it has no conditions
        if there[name] != value:
            raise UserError(f"the network's {name} is {value}, but {there[name]} beside it; get the file again")


def describe_tensor(value: Tensor) -> dict:
    """dtype, shape and bytes (little-endian) of a tensor."""
    value = value.detach().cpu().contiguous()
    name = str(value.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(f"tensors of type {name} cannot be kept in a snapshot; known: {', '.join(DTYPES)}")
    return {"dtype": name, "shape": list(value.shape), "data": value.reshape(-1).view(torch.uint8).numpy().tobytes()}


def rebuild_tensor(record: dict) -> Tensor:
    """The tensor that `describe_tensor` described. Raises ValueError if shape and bytes disagree."""
    dtype, shape, data = DTYPES[record["dtype"]], record["shape"], record["data"]
    flat = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy()).view(dtype)
    if any(side < 0 for side in shape) or flat.numel() != int(np.prod(shape, dtype=object)):
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
"""What format 1 called the classes of this program, by modules that have moved since."""


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """A record of format 1 as one of format 2; one of format 2 as it is."""
    if "class" not in record:
        return record
    network, spec = record["network"], dict(record["spec"])
    vector = {"labels": spec.pop("label_dim", 0), "augment": spec.pop("augment_dim", 0)}
    spatial = {"coords": spec.pop("coord_channels", 0)}
    out_channels = spec["image_channels"] * (2 if spec.pop("learned_variance", False) else 1)
    options = dict(network["options"])
    if network["class"] in FORMAT_1:  # those from outside go on taking the widths one by one
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
    """The spec that a snapshot keeps as data. Raises ValueError for what is none."""
    spec = NetSpec(**{**record, "resolution": tuple(record["resolution"])})
    widths = [*spec.vector.items(), *spec.spatial.items()]
    if not all(type(name) is str and type(width) is int and width > 0 for name, width in widths):
        raise ValueError("conditions of the network that are no widths")
    return spec


def renamed(name: str) -> str:
    """What a class of format 1 is called now."""
    if name.startswith("training.") and name not in FORMAT_1:
        raise UserError(f"the snapshot names {name!r}, which this program lacks; get the file again")
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
    """A denoiser with these weights by name, on the CPU, for evaluation; the random generators are left as they were.

    Of `buffers`, those are taken that the network has; others are constants that follow from its options.

    Raises UserError naming a weight that is missing, of another shape, or of no use.
    """
    with torch.random.fork_rng(devices=[]):
        with _Blank(2 * sum(value.numel() for value in state.values())):
            model = construct(network, network_options)
        denoiser = construct(precond, precond_options, model=model, spec=spec)
    wanted = model.state_dict(prefix="model.")
    state = {**{name: value for name, value in (buffers or {}).items() if name in wanted}, **state}
    require_match(wanted, state)
    denoiser.load_state_dict(state)
    return denoiser.eval().requires_grad_(False)


class _Blank(TorchFunctionMode):
    """Zeros for random numbers, as weights are to be replaced; and no more numbers than the file can fill, so that
    options which do not fit the weights cost no memory."""

    SMALL = 1 << 24

    def __init__(self, budget: int):
        super().__init__()
        self.left = budget + self.SMALL

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.rand, torch.randn, torch.zeros, torch.ones, torch.empty):
            size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            self.left -= math.prod(size)
            if self.left < 0:
                raise UserError("the file's options ask for a larger network than it has weights for")
            if function in (torch.rand, torch.randn) and kwargs.get("generator") is None:
                function = torch.zeros
        return function(*args, **kwargs)


def require_match(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Raise UserError unless `state` has the network's tensors that are wanted, and no other of a network."""
    for name, value in wanted.items():
        if name not in state:
            raise UserError(f"the file lacks the weights {name}, which its options ask for")
        if state[name].shape != value.shape:
            there, asked = list(state[name].shape), list(value.shape)
            raise UserError(f"the weights {name} have the shape {there} where the options ask for {asked}")
    extra = next((name for name in state if name.startswith("model.") and name not in wanted), None)
    if extra:
        raise UserError(f"the file has weights {extra}, for which its options have no place")
