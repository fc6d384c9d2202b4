"""Reads published checkpoints of the EDM family (EDM, CDM, Patch Diffusion, ECT) without running their code.

They store objects as class name, source code and state. Only name and state are used, to build our own denoiser.
"""

import inspect
import math
from numbers import Real
from pathlib import PurePath
from typing import Any

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.pickled_arrays import ARRAYS, CONTAINERS, pairs
from elucid.dnnlib.unpickle import Record, recorder, require_plain
from elucid.torch_utils.pickled import LAYERS, TENSORS
from elucid.training.losses.fewstep.ect import ECT
from elucid.training.networks.dhariwal_unet import DhariwalUNet
from elucid.training.networks.song_unet import SongUNet
from elucid.training.preconds.base import Denoiser
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.preconds.fewstep.consistency import ConsistencyPrecond
from elucid.training.preconds.iddpm import iDDPMPrecond
from elucid.training.preconds.ve import VEPrecond
from elucid.training.preconds.vp import VPPrecond
from elucid.training.snapshots.records import assemble
from elucid.training.types import NetSpec

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
EDM_NAMES = {
    **CONTAINERS,
    **ARRAYS,
    **TENSORS,
    **LAYERS,
    "dnnlib.util.EasyDict": pairs,
    PERSISTENT: recorder(PERSISTENT),
}
NETWORKS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
PRECONDS = {
    "VPPrecond": VPPrecond,
    "VEPrecond": VEPrecond,
    "iDDPMPrecond": iDDPMPrecond,
    "EDMPrecond": EDMPrecond,
    "Patch_EDMPrecond": EDMPrecond,  # with two coordinate channels
    "ECMPrecond": ConsistencyPrecond,  # EDM's while training, shifted by sigma_min in evaluation
}
INTERFACE = {"img_resolution", "img_channels", "out_channels", "label_dim", "use_fp16", "model_type"}
PRECOND_ARGUMENTS = ("img_resolution", "img_channels", "label_dim", "use_fp16")
NETWORK_ARGUMENTS = ("img_resolution", "in_channels", "out_channels")
LATENT_CHANNELS = 4  # of Stable Diffusion's autoencoder, used by Patch Diffusion
MOST_MODULES, DEEPEST = 100_000, 32  # the largest published network has about 1500 modules, nested 5 deep


def is_edm_pickle(content: Any) -> bool:
    """Return whether the content of a pickle looks like a checkpoint of the EDM family."""
    return isinstance(content, dict) and isinstance(content.get("ema"), Record) and content["ema"].name == PERSISTENT


def read_edm_pickle(content: dict) -> dict[str, Any]:
    """Return the fields of a `Snapshot`. Raises UserError for unknown classes or options or unfitting weights."""
    try:
        denoiser = read_denoiser(content["ema"])
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"the checkpoint is damaged ({type(error).__name__}: {error}); download it again") from error
    spec = denoiser.spec
    data = content.get("dataset_kwargs")
    path = data.get("path") if isinstance(data, dict) else None
    dataset = {
        "name": PurePath(path).stem if isinstance(path, str) else "unknown",
        "resolution": list(spec.resolution),
        "channels": spec.image_channels,
        "label_dim": spec.label_dim,
        "class_names": None,
    }
    return {
        "emas": {"ema": denoiser},
        "encoder": {"name": "vae" if spec.latent else "rgb"},
        "dataset": dataset,
        **(ECT.sampling if isinstance(denoiser, ConsistencyPrecond) else {}),
    }


def read_denoiser(record: Record) -> Denoiser:
    """Build our denoiser with the options and weights of a recorded one."""
    kind, state = class_and_state(record)
    network_record = part(part(state, "_modules"), "model", Record)
    network_kind, network_state = class_and_state(network_record)
    precond, network = known(PRECONDS, kind, "preconditioner"), known(NETWORKS, network_kind, "network")
    outer, inner = arguments(state, PRECOND_ARGUMENTS), arguments(network_state, NETWORK_ARGUMENTS)
    parameters, buffers = tensors(network_record, "model.")

    own = set(inspect.signature(precond).parameters) - {"model", "spec", "precision"}
    options = {name: value for name, value in outer.items() if name not in own | INTERFACE} | inner
    options["img_resolution"] = options.get("img_resolution", outer.get("img_resolution"))
    options["label_dim"] = options.get("label_dim", outer.get("label_dim", 0))
    options["in_channels"], options["out_channels"] = channels(parameters, options["img_resolution"])

    learned_variance = kind == "iDDPMPrecond"
    image_channels = options["out_channels"] // (2 if learned_variance else 1)
    coord_channels = options["in_channels"] - image_channels
    if coord_channels != (2 if kind == "Patch_EDMPrecond" else 0):
        raise UserError(f"a {kind} that sees {options['in_channels']} channels and makes {options['out_channels']}")
    spec = NetSpec(
        resolution=(options["img_resolution"],) * 2,
        image_channels=image_channels,
        out_channels=options["out_channels"],
        vector={"labels": options["label_dim"], "augment": options.get("augment_dim", 0)},
        spatial={"coords": coord_channels},
        latent=image_channels == LATENT_CHANNELS,
    )
    for option in ("label_dim", "augment_dim"):
        options.pop(option, None)
    options["vector"] = dict(spec.vector)
    precond_options = {name: value for name, value in outer.items() if name in own}
    if precond is ConsistencyPrecond:
        precond_options = {"boundary": "evaluation", **least_level(state), **precond_options}
    precond_options["precision"] = "fp16" if outer.get("use_fp16") else "fp32"
    return assemble(network, options, precond, precond_options, spec, parameters, buffers)


def least_level(state: dict) -> dict[str, float]:
    """Return the `sigma_min` that a recorded consistency model has, if it has one: its boundary lies there."""
    value = state.get("sigma_min")
    return {"sigma_min": float(value)} if isinstance(value, Real) and math.isfinite(value) and value >= 0 else {}


def known(table: dict[str, type], kind: str, what: str) -> type:
    """Return our class for a class name of the EDM family."""
    if kind not in table:
        raise UserError(f"the checkpoint's {what} is of class {kind!r}; this program reads {', '.join(table)}")
    return table[kind]


def class_and_state(record: Record) -> tuple[str, dict]:
    """Return class name and `__dict__` of a recorded object, from the EDM family or a torch container."""
    if record.name != PERSISTENT:
        return record.name.rpartition(".")[2], record.state if isinstance(record.state, dict) else {}
    meta = record.args[0] if len(record.args) == 1 else None
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise UserError("a recorded object that is no class instance; get the file again")
    return part(meta, "class_name", str), part(meta, "state")


def part(parent: dict, name: str, kind: type = dict) -> Any:
    """Return a required entry of this type. Raises UserError if it is missing."""
    if not isinstance(parent.get(name), kind):
        raise UserError(f"the checkpoint's {name!r} is missing or damaged; get the file again")
    return parent[name]


def arguments(state: dict, names: tuple[str, ...]) -> dict[str, Any]:
    """Return an object's constructor arguments by name; `names` are those of the positional ones."""
    given, named = state.get("_init_args", ()), state.get("_init_kwargs", {})
    if not isinstance(given, (tuple, list)) or not isinstance(named, dict) or len(given) > len(names):
        raise UserError("the checkpoint's _init_args or _init_kwargs have an unknown form")
    require_plain([list(given), named], "the checkpoint's _init_args or _init_kwargs")
    return {**dict(zip(names, given, strict=False)), **named}


def tensors(root: Record, prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parameters and buffers of a recorded module and its submodules, by dotted name."""
    found: dict[str, dict[str, Tensor]] = {"_parameters": {}, "_buffers": {}}
    waiting, count = [(prefix, root)], 0
    while waiting:
        prefix, record = waiting.pop()
        count += 1
        if count > MOST_MODULES or prefix.count(".") > DEEPEST:
            raise UserError("the checkpoint's modules contain each other without end; get the file again")
        _, state = class_and_state(record)
        for group, by_name in found.items():
            for name, value in state.get(group, {}).items():
                if isinstance(value, Tensor):
                    by_name[f"{prefix}{name}"] = value
        for name, module in state.get("_modules", {}).items():
            if isinstance(module, Record):
                waiting.append((f"{prefix}{name}.", module))
    return found["_parameters"], found["_buffers"]


def channels(parameters: dict[str, Tensor], size: int) -> tuple[int, int]:
    """Return input and output channels from the first and last convolution; the forks' options are inconsistent."""
    ends = (
        (f"enc.{size}x{size}_conv.weight", f"enc.{size}x{size}_conv.0.weight"),
        (f"dec.{size}x{size}_aux_conv.weight", "out_conv.weight"),
    )
    found = [[parameters[f"model.{name}"] for name in names if f"model.{name}" in parameters] for names in ends]
    if not all(found):
        raise UserError(f"the checkpoint has no first or last convolution for {size}x{size} images; get the file again")
    (first, *_), (last, *_) = found
    return first.shape[1], last.shape[0]
