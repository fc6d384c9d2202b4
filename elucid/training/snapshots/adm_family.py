"""Reads state dicts of guided-diffusion, improved-diffusion and minimal-diffusion: U-Nets, upsamplers, classifiers.

Such a file has names and arrays only. Shapes tell most options (`adm_shapes`); the rest comes from a preset, found by
the shapes or named, or from options with the names of those programs' flags. Nothing in the file is run.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elucid.dnnlib.config import resolve
from elucid.dnnlib.errors import UserError, did_you_mean
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.registry.adm_options import DIFFUSION, OTHERS, RENAMED, network_options, tidy
from elucid.training.registry.adm_presets import PRESETS
from elucid.training.registry.names import NETWORKS, PRECONDS
from elucid.training.snapshots.adm_shapes import Told, conflict, image_channels, told
from elucid.training.snapshots.records import assemble
from elucid.training.transforms.lowres import NAME as LOWRES
from elucid.training.types import NetSpec

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before version 1.6 begin."""
MARK = "time_embed.0.weight"
NESTED = ("ema", "ema_state_dict", "model_ema", "ema_model", "state_dict", "model_state_dict", "model", "net")
"""Keys under which a file may hold the state dict, averages first."""


def is_torch_file(path: Path) -> bool:
    """Return whether a file was written by `torch.save`, in the present form, a zip, or the legacy one."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LEGACY))
        if start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return start == LEGACY


def read_adm_file(path: Path, content: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the fields of a `Snapshot` from the content of a torch file.

    `options` may name an `adm_preset` and have options of the original program. Raises UserError for content that is no
    network of this family, and for options that are missing or do not fit.
    """
    weights = state_dict_in(content, path.stat().st_size)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    found, original = settled(told(shapes), dict(options or {}))
    try:
        denoiser = build(found, original, weights)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"no network can be made of its weights ({type(error).__name__}: {error})") from error
    large, small = original.get("large_size"), original.get("small_size")
    options = {"lowres": {"name": LOWRES, "factor": large // small}} if large and small else {}
    return {**fields(denoiser, found, path), "options": options}


def state_dict_in(content: Any, size: int) -> dict[str, Tensor]:
    """Return the weights in a file of `size` bytes without a prefix such as `module.`.

    Raises UserError if there are none of this family, or if they are larger than the file.
    """
    flat = nested_weights(content)
    if flat is None:
        if isinstance(content, dict) and content.get("format") == "elucid-state":
            raise UserError("it is a training state; give the network-snapshot-NNNNNN.pkl beside it")
        raise UserError(f"it is a torch file, but without an ADM network's weights ({MARK}); give a snapshot")
    prefixes = sorted({name[: -len(MARK)] for name in flat if name.endswith(MARK)}, key=len)
    stranger = next((name for name in flat if not name.startswith(prefixes[0])), None)
    if stranger is not None:
        raise UserError(f"beside the weights {prefixes[0]}{MARK} it has {stranger}, which is no ADM network's")
    weights = {name.removeprefix(prefixes[0]): value for name, value in flat.items()}
    other = next((name for name, value in weights.items() if not value.is_floating_point()), None)
    if other is not None:
        raise UserError(f"the weights {other} are {weights[other].dtype}, not floating-point numbers")
    if sum(value.numel() * value.element_size() for value in weights.values()) > size:
        raise UserError("its weights would be larger than the file; get the file again")
    return {name: value.to(torch.float32) for name, value in weights.items()}


def nested_weights(content: Any, depth: int = 3) -> dict[str, Tensor] | None:
    """Return the first dict of tensors that has an ADM network's names, in the content or below a known key."""
    if not isinstance(content, dict) or not depth:
        return None
    flat = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if any(name.endswith(MARK) for name in flat):
        return flat
    below = (nested_weights(content.get(key), depth - 1) for key in NESTED)
    return next((one for one in below if one is not None), None)


def settled(possible: list[Told], options: dict[str, Any]) -> tuple[Told, dict[str, Any]]:
    """Return what the weights are, and all options with the originals' names. Raises UserError if they disagree."""
    preset = options.pop("adm_preset", None)
    given = tidy(options)
    require_known(preset, given)
    if "num_heads" in given:  # the originals prefer a width, here the preset's
        given.setdefault("num_head_channels", -1)
    fitting = {
        name: one for name, known in PRESETS.items() for one in possible if conflict(one, {**known, **given}) is None
    }
    original = {**PRESETS.get(preset or "", {}), **given}
    if preset is None and not given:
        preset = only_one(list(fitting), possible[0])
        original = PRESETS[preset]
    agreeing = [one for one in possible if conflict(one, original) is None]
    if not agreeing:
        source = f"adm_preset={preset} has " if preset else ""
        others = "give its own options instead" if preset else "leave out what the weights tell"
        others = f"use adm_preset={' or '.join(fitting)}" if fitting else others
        raise UserError(f"{source}{conflict(possible[0], original)}; {others}")
    if len(agreeing) > 1:
        counts = " or ".join(str(one.options["num_blocks"]) for one in agreeing)
        raise UserError(f"its weights allow {counts} blocks per resolution; give num_res_blocks or an adm_preset")
    require_complete(agreeing[0], original, list(fitting))
    return agreeing[0], original


def require_known(preset: str | None, given: dict[str, Any]) -> None:
    """Raise UserError for a preset or option that does not exist."""
    if preset is not None and preset not in PRESETS:
        raise UserError(f"adm_preset={preset} is unknown{did_you_mean(preset, PRESETS)}: {', '.join(PRESETS)}")
    known = {*RENAMED, *OTHERS, *DIFFUSION}
    unknown = next((name for name in given if name not in known), None)
    if unknown:
        raise UserError(f"no option {unknown!r} of an ADM checkpoint{did_you_mean(unknown, known)}")


def only_one(fitting: list[str], found: Told) -> str:
    """Return the preset for these weights. Raises UserError if there is none, or several that are not the same.

    Presets that differ in dropout only are the same, since that is for training.
    """
    if not fitting:
        kind = "classifier" if found.classifier else "U-Net"
        options = ", ".join(f"{name}={value}" for name, value in found.options.items())
        raise UserError(
            f"no preset has the shapes of this {kind} ({options}); give its own options image_size, noise_schedule and "
            "num_heads or num_head_channels, with `set` network.OPTION=VALUE"
        )
    kinds = [{name: value for name, value in PRESETS[one].items() if name != "dropout"} for one in fitting]
    if any(kind != kinds[0] for kind in kinds):
        raise UserError(f"its weights fit several presets; choose adm_preset={' or '.join(fitting)}")
    return fitting[0]


def require_complete(found: Told, original: dict[str, Any], fitting: list[str]) -> None:
    """Raise UserError if an option is missing that weights do not tell and that has no safe default."""
    asked = {
        "image_size": found.image_size or original.get("image_size") or original.get("large_size"),
        "num_heads or num_head_channels": original.get("num_heads") or original.get("num_head_channels", -1) > 0,
        "noise_schedule": original.get("noise_schedule"),
    }
    missing = [name for name, value in asked.items() if not value]
    if missing:
        preset = f", or adm_preset={' or '.join(fitting)}" if fitting else ""
        raise UserError(f"the weights do not tell {', '.join(missing)}; give them as for the original program{preset}")


def build(found: Told, original: dict[str, Any], weights: dict[str, Tensor]) -> Preconditioned:
    """Build the denoiser or classifier with these weights."""
    channels = image_channels(found, original)
    options = network_options({name: value for name, value in original.items() if name not in DIFFUSION})
    options |= found.options
    side = options["img_resolution"] = options.get("img_resolution") or found.image_size
    options["attn_resolutions"] = [side >> index for index in found.attention]
    spec = NetSpec(
        resolution=(side, side),
        image_channels=channels,
        out_channels=found.out_channels,
        vector={"labels": found.classes},
        spatial={} if found.in_channels == channels else {LOWRES: found.in_channels - channels},
    )
    options |= {"in_channels": spec.in_channels, "out_channels": spec.out_channels, "vector": dict(spec.vector)}
    precond = {
        "precision": "fp16" if original.get("use_fp16") else "fp32",
        "beta_schedule": original["noise_schedule"],
        "diffusion_steps": original.get("diffusion_steps", 1000),
        "rescale_timesteps": original.get("rescale_timesteps", False),
    }
    if not found.classifier:
        precond["variance"] = "small" if original.get("sigma_small") else "large"
    names = ("adm_classifier", "ddpm_classifier") if found.classifier else ("adm_unet", "ddpm")
    network, preconditioner = resolve(NETWORKS[names[0]]), resolve(PRECONDS[names[1]])
    state = {f"model.{name}": value for name, value in weights.items()}
    return assemble(network, options, preconditioner, precond, spec, state)


def fields(denoiser: Preconditioned, found: Told, path: Path) -> dict[str, Any]:
    """Return the fields of a `Snapshot` with this denoiser or classifier."""
    spec = denoiser.spec
    result: dict[str, Any] = {
        "emas": {"ema": denoiser},
        "dataset": {
            "name": path.stem,
            "resolution": list(spec.resolution),
            "channels": spec.image_channels,
            "label_dim": spec.out_channels if found.classifier else spec.label_dim,
            "class_names": None,
        },
    }
    if isinstance(denoiser, Denoiser):
        result["sampler"] = {"name": denoiser.default_sampler}
        result["schedule"] = {"name": denoiser.default_schedule}
    return result
