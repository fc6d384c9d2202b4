"""Reads published EDM2 networks and snapshots of its training runs without running their code.

Their objects are recorded as EDM's are (`edm_family`): class name, source code and state. Weights are in float16.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.unpickle import Record
from elucid.training.networks.edm2.unet import EDM2UNet
from elucid.training.preconds.base import Denoiser
from elucid.training.preconds.edm2 import EDM2Precond
from elucid.training.snapshots.edm_family import PERSISTENT, arguments, class_and_state, part, tensors
from elucid.training.snapshots.records import assemble
from elucid.training.types import NetSpec

PRECOND, NETWORK = "Precond", "UNet"
ARGUMENTS = ("img_resolution", "img_channels", "label_dim")
OURS = {"unet.": "model.", "logvar_fourier.": "uncertainty.features.", "logvar_linear.": "uncertainty.linear."}
"""Prefixes of weights there and here."""

IMAGES, LATENTS = "StandardRGBEncoder", "StabilityVAEEncoder"
LATENT_OPTIONS = {"vae_name": "model", "raw_mean": "mean", "raw_std": "std", "final_std": "final_std"}
"""Options of the encoder of latents there and here; `edm2_vae` has its published values as defaults."""

FILE_NAME = re.compile(r"-(\d{7,})-(0\.\d{3,})$")
ALIGNMENT = 1024
"""Its runs save at multiples of this number of images; the names of files have thousands, rounded down."""


def is_edm2_pickle(content: Any) -> bool:
    """Return whether the content of a pickle looks like an EDM2 network."""
    record = content.get("ema") if isinstance(content, dict) else None
    meta = record.args[0] if isinstance(record, Record) and record.name == PERSISTENT and record.args else None
    return isinstance(meta, dict) and meta.get("class_name") == PRECOND


def read_edm2_pickle(content: dict, path: Path) -> dict[str, Any]:
    """Return the fields of a `Snapshot`; the name of the average and the number of images are those of the file.

    Raises UserError for unknown classes or options, or unfitting weights.
    """
    try:
        encoder = read_encoder(content.get("encoder"))
        denoiser = read_denoiser(content["ema"], latent=encoder["name"] != "rgb")
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"the checkpoint is damaged ({type(error).__name__}: {error}); download it again") from error
    spec, data = denoiser.spec, content.get("dataset_kwargs")
    place = data.get("path") if isinstance(data, dict) else None
    dataset = {
        "name": PurePath(place).stem if isinstance(place, str) else "unknown",
        "resolution": list(spec.resolution),
        "channels": spec.image_channels,
        "label_dim": spec.label_dim,
        "class_names": None,
    }
    nimg, name = images_and_average(path.stem)
    sampler = {"name": "edm2"}
    return {"emas": {name: denoiser}, "encoder": encoder, "dataset": dataset, "nimg": nimg, "sampler": sampler}


def images_and_average(stem: str) -> tuple[int, str]:
    """Return the images seen and the EMA length that a file is named by, e.g. (2^27, "0.050") of `...-0134217-0.050`.

    (0, "ema") for other names. The number of images is the multiple of 1024 that the name rounds, if there is one.
    """
    match = FILE_NAME.search(stem)
    if match is None:
        return 0, "ema"
    least = int(match[1]) * 1000
    nimg = -(-least // ALIGNMENT) * ALIGNMENT
    return nimg if nimg < least + 1000 else least, match[2]


def read_denoiser(record: Record, latent: bool) -> Denoiser:
    """Build our denoiser with the options and weights of a recorded one."""
    _, state = class_and_state(record)
    kind, network_state = class_and_state(part(part(state, "_modules"), "unet", Record))
    if kind != NETWORK:
        raise UserError(f"the checkpoint's network is of class {kind!r}; of an EDM2 checkpoint, {NETWORK} is read")
    outer, inner = arguments(state, ARGUMENTS), arguments(network_state, ARGUMENTS)
    fp16, sigma_data = outer.pop("use_fp16", False), outer.pop("sigma_data", 0.5)
    outer.pop("logvar_channels", None)  # told by the weights
    options = {**outer, **inner}
    channels, label_dim = options.pop("img_channels"), options.pop("label_dim", 0)
    for name, value in (("img_channels", channels), ("label_dim", label_dim)):
        if type(value) is not int or value < 0:
            raise UserError(f"the checkpoint's {name} is {value!r}; get the file again")
    parameters, buffers = (renamed(one) for one in tensors(record, ""))
    head = parameters.get("uncertainty.linear.weight")
    spec = NetSpec(
        resolution=(options["img_resolution"],) * 2,
        image_channels=channels,
        out_channels=channels,
        vector={"labels": label_dim} if label_dim else {},
        latent=latent,
        logvar_features=0 if head is None else head.shape[1],
    )
    options |= {"in_channels": channels, "out_channels": channels, "vector": dict(spec.vector)}
    precond = {"sigma_data": sigma_data, "precision": "fp16" if fp16 else "fp32"}
    return assemble(EDM2UNet, options, EDM2Precond, precond, spec, parameters, buffers)


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by our names, in float32; gains are vectors of one element here, and scalars there."""
    result = {}
    for name, value in weights.items():
        prefix = next((one for one in OURS if name.startswith(one)), "")
        value = value.reshape(1) if name.endswith("_gain") and value.ndim == 0 else value
        result[OURS.get(prefix, "") + name.removeprefix(prefix)] = value.float() if value.is_floating_point() else value
    return result


def read_encoder(record: Any) -> dict[str, Any]:
    """Return our component for a recorded encoder; images of old files have none. Raises UserError for other kinds."""
    if record is None:
        return {"name": "rgb"}
    kind, state = class_and_state(record) if isinstance(record, Record) else (type(record).__name__, {})
    if kind == IMAGES:
        return {"name": "rgb"}
    if kind != LATENTS:
        raise UserError(f"the checkpoint's encoder is of class {kind!r}; this program reads {IMAGES}, {LATENTS}")
    given = arguments(state, ())
    if given.get("final_mean", 0) not in (0, 0.0):
        raise UserError(f"the checkpoint's encoder has final_mean={given['final_mean']!r}; only 0 is supported")
    ours = {ours: given[theirs] for theirs, ours in LATENT_OPTIONS.items() if theirs in given}
    return {
        "name": "edm2_vae",
        **{name: list(value) if isinstance(value, tuple) else value for name, value in ours.items()},
    }
