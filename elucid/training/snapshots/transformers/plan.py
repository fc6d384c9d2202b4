"""Decides which network a transformer's weights are, by their shapes, a model's name, options, and the file's name.

Shapes tell most options (`shapes`). What they do not tell comes from `checkpoint_model`, the name that their programs
give a model, such as "SiT-XL/2", from options, or, DiT or SiT, from the file's name.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError, note
from elucid.training.registry.public_transformers import MODELS, model_called
from elucid.training.registry.transformer_options import FORMS, SIZES
from elucid.training.snapshots.transformers import families
from elucid.training.snapshots.transformers.shapes import Shapes, Told, size_of, told
from elucid.training.types import NetSpec

CLASS_COUNT = 1000
"""Rows of a label table without one for no class: ImageNet's."""
FROM_NAME = re.compile(r"(?<![a-z])(dit|sit)(?![a-z])", re.IGNORECASE)


@dataclass
class Plan:
    """The denoiser of a state dict: its family, options of network and preconditioner, spec."""

    family: str
    network: dict[str, Any]
    precond: str
    precond_options: dict[str, Any]
    spec: NetSpec


def planned(shapes: Shapes, path: Path, model: str | None, given: dict[str, Any]) -> Plan:
    """Return the plan for weights of these shapes in the file `path`. Raises UserError for what is missing or wrong."""
    asked = model_called(model)[2] if model else given.get("patch_size")
    found = told(shapes, asked)
    family = chosen_family(found, model, path)
    network = network_options(found, family, model, given)
    latent = family != "jit"
    side = found.side or side_of(found, latent, given, path)
    require_image_size(found.channels, side, latent, given.get("image_size"))
    classes, null_class = class_count(found.rows, given.get("num_classes"))
    spec = NetSpec(
        resolution=(side, side),
        image_channels=found.channels,
        out_channels=found.channels * (1 + found.doubled),
        vector={"labels": classes} if classes else {},
        latent=latent,
    )
    network |= {"img_resolution": side, "in_channels": spec.in_channels, "out_channels": spec.out_channels}
    network |= {"vector": dict(spec.vector), "null_class": null_class}
    return Plan(family, network, *families.precond(family, side, given, found.doubled), spec)


def chosen_family(found: Told, model: str | None, path: Path) -> str:
    """Return the family of the weights. Raises UserError if the model is of another, or if nothing decides."""
    if model is not None:
        family = model_called(model)[0]
        if family == "sit" and "repa" in found.families:
            return "repa"
        if family not in found.families:
            what = " or ".join(name for name in found.families if name != "repa") or "sit"
            raise UserError(f"`checkpoint_model`={model}, but its weights are those of a {what}")
        return family
    if found.families == ("dit", "sit"):  # alike but for what they were trained for
        names = {name.lower() for name in FROM_NAME.findall(path.stem)}
        if len(names) != 1:
            raise UserError(
                "its weights fit a DiT and a SiT alike; say which by `checkpoint_model`, e.g. "
                f"`checkpoint_model`={' or '.join(likely(found)) or 'DiT-XL/2 or SiT-XL/2'}"
            )
        return names.pop()
    return found.families[0]


def likely(found: Told) -> list[str]:
    """Return the models that the weights may be."""
    return [
        name
        for name, (family, size, patch) in MODELS.items()
        if family in found.families and patch == found.options["patch"] and not conflict(name, found, size_only=True)
    ]


def conflict(model: str, found: Told, size_only: bool = False) -> str | None:
    """Return in which option a model differs from the weights, in words, or None."""
    family, size, patch = MODELS[model]
    wanted = {**size_options(family, size), **({} if size_only else {"patch": patch})}
    for option, there in found.options.items():
        if option in wanted and wanted[option] != there:
            return f"{option}={wanted[option]}, but the weights have {there}"
    return None


def size_options(family: str, size: str) -> dict[str, Any]:
    """Return the options of a size, without those that only matter to training."""
    return {name: value for name, value in SIZES[family][size].items() if name != "dropout"}


def network_options(found: Told, family: str, model: str | None, given: dict) -> dict[str, Any]:
    """Return the network's options. Raises UserError if model, options and weights disagree, or heads are unknown."""
    wrong = None if model is None else conflict(model, found)
    if wrong:
        others = likely(found)
        raise UserError(f"`checkpoint_model`={model} has {wrong}" + (f"; use {' or '.join(others)}" if others else ""))
    size = size_options(*MODELS[model][:2]) if model else dict(size_of((family,), found.options))
    size.pop("dropout", None)
    if "patch_size" in given and given["patch_size"] != found.options["patch"]:
        raise UserError(
            f"patch_size={given['patch_size']}, but the weights have {found.options['patch']}; leave it out"
        )
    form = {} if family == "repa" else {name: value for name, value in FORMS[family].items() if name != "patch"}
    own = {name: given[name] for name in ("num_heads", "context_start", "encoder_depth") if name in given}
    for name in own.keys() & found.options.keys():
        if own[name] != found.options[name]:
            raise UserError(f"{name}={own[name]}, but the weights have {found.options[name]}; leave it out")
    options = {**form, **size, **found.options, **own}
    options.pop("dropout_blocks", None)
    more = ["context_start"] if options.get("context_tokens") else ["encoder_depth"] if family == "ddt" else []
    for name in ("num_heads", *more):
        if name not in options:
            raise UserError(
                f"the weights do not tell {name}, and no published model has depth {options['depth']} and width "
                f"{options['model_channels']}; give it by `set` network.{name}=N"
            )
    return options


def side_of(found: Told, latent: bool, given: dict, path: Path) -> int:
    """Return the side of an input that the weights do not tell, of DDT's: by option, by file name, else of 256."""
    factor = families.LATENTS.get(found.channels, 8) if latent else 1
    by_name = [int(one) for one in re.findall(r"(?<!\d)(256|512)(?!\d)", path.stem)]
    size = given.get("image_size") or (by_name[0] if len(set(by_name)) == 1 else None)
    if size is None:
        note(f"{path.name} does not tell the size of its images; 256 is taken, others by `set` network.image_size=512")
        size = 256
    step = factor * found.options["patch"]
    if size % step:
        raise UserError(f"image_size={size} is not divisible by {step}, the patch of a latent in pixels")
    return size // factor


def require_image_size(channels: int, side: int, latent: bool, size: int | None) -> None:
    """Raise UserError if `size` is neither the side of the input nor that of the images."""
    pixels = side * families.LATENTS.get(channels, 8) if latent else side
    if size not in (None, side, pixels):
        raise UserError(f"image_size={size}, but the weights are for {pixels}; leave it out")


def class_count(rows: int, asked: int | None) -> tuple[int, bool]:
    """Return the number of classes, and whether the table has one more row for none.

    Without a number that row is assumed, except in a table of 1000. Raises UserError if the number does not fit.
    """
    if rows == 0 or asked == 0:
        if rows != (asked or 0):
            raise UserError(f"num_classes={asked}, but the weights have {rows} rows of labels; leave it out")
        return 0, True
    if asked is not None and rows not in (asked, asked + 1):
        raise UserError(f"num_classes={asked}, but the weights have {rows - 1} and a row for none; leave it out")
    null_class = rows != (CLASS_COUNT if asked is None else asked)
    return rows - null_class, null_class
