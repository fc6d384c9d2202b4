"""What the weights of each family mean: the preconditioner, the encoder of its latents, options of its programs."""

from collections.abc import Mapping
from typing import Any

from elucid.dnnlib.errors import UserError, did_you_mean

SD_VAE = {"name": "vae", "model": "stabilityai/sd-vae-ft-ema", "scale": 0.18215}
"""Stable Diffusion's autoencoder and factor, of latents with four channels."""

LATENTS = {4: 8, 16: 8, 32: 16}
"""By which factor latents of so many channels are smaller than the images."""

PATHS = {"linear": "linear", "gvp": "cosine", "cosine": "cosine", "vp": "vp"}
PREDICTIONS = {"velocity": "v", "v": "v", "score": "score", "noise": "epsilon", "epsilon": "epsilon", "x": "x"}
"""Our names for those of SiT and REPA."""

NUMBERS = ("image_size", "num_classes", "num_heads", "patch_size", "context_start", "encoder_depth")
OPTIONS = (*NUMBERS, "path_type", "prediction", "noise_scale")
RENAMED = {
    "img_size": "image_size",
    "class_num": "num_classes",
    "patch": "patch_size",
    "in_context_start": "context_start",
    "num_encoder_blocks": "encoder_depth",
}
"""Options that a user may give, and other names of them."""

EDGE = 1e-3
"""1 - t at which paths and predictions that are infinite or useless at pure noise start."""


def tidy(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by one name, numbers as such. Raises UserError for those that do not exist, and odd values."""
    result = {}
    for name, value in given.items():
        name = RENAMED.get(name, name)
        if name not in OPTIONS:
            raise UserError(
                f"no option {name!r} of a transformer's checkpoint{did_you_mean(name, OPTIONS)}; there are "
                f"{', '.join(OPTIONS)}, by `set` network.OPTION=VALUE, and `checkpoint_model`"
            )
        result[name] = _number(name, value) if name in NUMBERS else value
    for name, known in (("path_type", PATHS), ("prediction", PREDICTIONS)):
        if name in result and str(result[name]).lower() not in known:
            raise UserError(f"{name}={result[name]!r} is unknown; use {', '.join(known)}")
    return result


def _number(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number < 0 or str(number) != str(value).strip():
        raise UserError(f"{name}={value!r} must be a whole number")
    return number


def precond(family: str, side: int, given: Mapping[str, Any], learned: bool) -> tuple[str, dict[str, Any]]:
    """Return name and options of the preconditioner of a family, for images or latents of this side."""
    if family == "dit":
        process = {"beta_schedule": "linear", "diffusion_steps": 1000}
        return "ddpm", process if learned else {**process, "variance": "large"}
    if family == "jit":
        scale = given.get("noise_scale", side / 256)
        if not isinstance(scale, int | float) or not scale > 0:
            raise UserError(f"noise_scale={scale!r} must be a number above 0; published: image_size / 256")
        return "flow", {"prediction": "x", "time": "data", "noise_scale": float(scale)}
    path = PATHS[str(given.get("path_type", "linear")).lower()]
    prediction = PREDICTIONS[str(given.get("prediction", "v")).lower()]
    return "flow", {"path": path, "prediction": prediction, "time": "noise" if family == "repa" else "data"}


def schedule(published: Mapping[str, Any], precond: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published schedule, starting a little later where the network says nothing at pure noise."""
    late = precond.get("prediction") in ("score", "epsilon") or precond.get("path") == "vp"
    return {**published, "t_max": 1 - EDGE} if late else dict(published)


def encoder(family: str, channels: int, statistics: tuple[list[float], list[float]] | None) -> dict[str, Any]:
    """Return the encoder of a family's latents; other autoencoders than Stable Diffusion's are for the user to give.

    `statistics` are mean and deviation of each channel, as REPA-E's files have them.
    """
    if family == "jit":
        return {"name": "rgb"}
    if statistics is not None:
        return {"name": "vae", "mean": statistics[0], "std": statistics[1], "final_std": 1.0}
    return dict(SD_VAE) if channels == 4 else {"name": "vae", "final_std": 1.0}
