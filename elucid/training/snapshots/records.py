"""Denoisers as data and back: class names, options and arrays. Snapshots and published checkpoints both end here."""

import dataclasses
import math
import os
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from elucid.dnnlib.config import construct, import_code, plugin_name, resolve
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.plugins import installed
from elucid.training.preconds.base import Denoiser
from elucid.training.registry import names
from elucid.training.types import NetSpec

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8)
}
PLUGINS = "ELUCID_PLUGINS"
"""Environment variable: modules (`my_pkg.nets`) and files (`nets.py`), with commas between, that snapshots may name."""


def describe_denoiser(denoiser: Denoiser) -> dict:
    """A denoiser as plain data; `rebuild_denoiser` is the way back.

    Raises UserError if it was not made by `elucid.dnnlib.config.construct`, which notes the options.
    """
    for part in (denoiser, denoiser.model):
        if not hasattr(part, "recipe"):
            raise UserError(
                f"{type(part).__name__} does not know its options; make it with elucid.dnnlib.config.construct"
            )
    network = denoiser.model
    return {
        "name": kept_name(names.PRECONDS, type(denoiser)),
        "options": denoiser.recipe["options"],
        "network": {"name": kept_name(names.NETWORKS, type(network)), "options": network.recipe["options"]},
        "spec": dataclasses.asdict(denoiser.spec),
        "state": {name: describe_tensor(value) for name, value in denoiser.state_dict().items()},
    }


def rebuild_denoiser(record: dict) -> Denoiser:
    """The denoiser that `describe_denoiser` described, on the CPU, for evaluation.

    Raises UserError if a class is not admitted, an option does not exist or an array does not fit.
    """
    try:
        record = upgraded(record)
        network = record["network"]
        spec = NetSpec(**{**record["spec"], "resolution": tuple(record["spec"]["resolution"])})
        require_spec(network["options"], spec)
        state = {name: rebuild_tensor(value) for name, value in record["state"].items()}
        return assemble(
            admitted(names.NETWORKS, network["name"], nn.Module), network["options"],
            admitted(names.PRECONDS, record["name"], Denoiser), record["options"], spec, state,
        )  # fmt: skip
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"the denoiser's description is damaged ({type(error).__name__}: {error})") from error


def require_spec(options: dict, spec: NetSpec) -> None:
    """Raise UserError unless the network was made for this spec."""
    size = options["img_resolution"]
    asked = {"resolution": (size, size) if isinstance(size, int) else tuple(size)}
    asked |= {name: options[name] for name in ("in_channels", "out_channels", "label_dim", "augment_dim")}
    for name, value in asked.items():
        if getattr(spec, name) != value:
            raise UserError(f"the network's {name} is {value}, but {getattr(spec, name)} beside it; get the file again")


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


def kept_name(table: Mapping[str, str], kind: type) -> str:
    """How a file calls a class: by its short name, which outlives its module; `module:Name` if it is from outside."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, place in table.items() if place == path), path)


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
    network = {"options": record["network"]["options"], "name": renamed(record["network"]["class"])}
    return {**record, "name": renamed(record["class"]), "network": network}


def renamed(name: str) -> str:
    """What a class of format 1 is called now."""
    if name.startswith("training.") and name not in FORMAT_1:
        raise UserError(f"the snapshot names {name!r}, which this program lacks; get the file again")
    return FORMAT_1.get(name, name)


def admitted(table: Mapping[str, str], name: str, base: type) -> type:
    """The class of that name, if it is a subclass of `base` and snapshots may name it. Raises UserError otherwise."""
    target = admit(table, name)
    if not isinstance(target, type) or not issubclass(target, base):
        raise UserError(f"the snapshot names {name!r}, which is no {base.__name__}; refused")
    return target


def admit(table: Mapping[str, str], name: str) -> Any:
    """What a short name or `module:Name` is, if snapshots may name it: a stranger's file must not choose code to run.

    Those are the names in this program's table; of a module that this process has imported already (`trust`) or that
    the environment variable ELUCID_PLUGINS lists; and classes that an installed package registers by an entry point.
    Raises UserError otherwise, importing nothing.
    """
    if name in table:
        return resolve(table[name])
    module, _, attribute = name.rpartition(":")
    if not module:
        raise UserError(f"the snapshot names {name!r}, which this program lacks; update it")
    if module in sys.modules:
        return getattr(sys.modules[module], attribute, None)
    return registered(name) or resolve(f"{trusted(module, name)}:{attribute}")


def trust(plugins: Iterable[str]) -> None:
    """Import modules (`my_pkg.nets`) and files (`nets.py`), whose classes snapshots may name from then on."""
    for name in plugins:
        import_code(name)


def registered(name: str) -> type | None:
    """The class `module:Name`, if an installed package registers it, under this or another path."""
    package = name.partition(":")[0].partition(".")[0]
    for kind in ("network", "preconditioner", "encoder"):
        for place in chain.from_iterable(installed(kind).values()):
            if place.partition(":")[0].partition(".")[0] == package:
                target = resolve(place)
                if f"{target.__module__}:{target.__qualname__}" == name:
                    return target
    return None


def trusted(module: str, name: str) -> str:
    """The entry of ELUCID_PLUGINS that is this module. Raises UserError if there is none."""
    for entry in filter(None, os.environ.get(PLUGINS, "").split(",")):
        if entry == module or (entry.endswith(".py") and module == plugin_name(entry)):
            return entry
    prefix = plugin_name("")
    where = f"path/{module.removeprefix(prefix)}.py" if module.startswith(prefix) else module
    raise UserError(
        f"the snapshot names {name!r}, which is not of this program; if you trust it, "
        f"give --plugins={where} or set {PLUGINS}={where}"
    )


def assemble(
    network: type[nn.Module],
    network_options: dict[str, Any],
    precond: type[Denoiser],
    precond_options: dict[str, Any],
    spec: NetSpec,
    state: dict[str, Tensor],
    buffers: dict[str, Tensor] | None = None,
) -> Denoiser:
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
