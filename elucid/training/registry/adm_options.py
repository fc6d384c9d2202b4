"""Translates the option names of guided-diffusion and improved-diffusion to those of `ADMUNet` and `ADMEncoder`.

Both the names of their command lines (`num_channels`, `attention_resolutions` "32,16,8" in pixels) and those of their
networks (`model_channels`, `attention_resolutions` [2, 4], halvings as factors) are known.
"""

from collections.abc import Mapping
from typing import Any

from elucid.dnnlib.errors import UserError, did_you_mean

RENAMED = {
    "num_channels": "model_channels",
    "classifier_width": "model_channels",
    "num_res_blocks": "num_blocks",
    "classifier_depth": "num_blocks",
    "classifier_pool": "pool",
    "classifier_resblock_updown": "resblock_updown",
    "use_scale_shift_norm": "scale_shift_norm",
    "classifier_use_scale_shift_norm": "scale_shift_norm",
    "use_new_attention_order": "new_attention_order",
    "use_checkpoint": "checkpoint",
    "model_channels": "model_channels",
    "resblock_updown": "resblock_updown",
    "conv_resample": "conv_resample",
    "dropout": "dropout",
    "activation": "activation",
    "pool": "pool",
}
OWN = ("channel_mult_emb", "skip_rescale", "num_blocks", "scale_shift_norm", "new_attention_order")
RENAMED |= {name: name for name in OWN}
"""Options whose value is the same, by their original names; some are known by our names as well."""

OTHERS = (
    "image_size", "large_size", "small_size", "channel_mult", "attention_resolutions",
    "classifier_attention_resolutions", "num_heads", "num_head_channels", "num_heads_upsample",
)  # fmt: skip
"""Options whose value is translated."""

DIFFUSION = (
    "class_cond", "num_classes", "learn_sigma", "sigma_small", "noise_schedule", "diffusion_steps",
    "rescale_timesteps", "use_fp16",
)  # fmt: skip
"""Options that are not the network's."""

DEFAULTS = {
    "resblock_updown": False,
    "scale_shift_norm": False,
    "new_attention_order": False,
    "dropout": 0.0,
}
"""Values of the original networks where ours have others."""

POOLS = {"adaptive": "average"}

MULTIPLIERS = {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}
MULTIPLIERS |= {32: (1, 2, 2, 2), 28: (1, 2, 2)}
"""The usual `channel_mult` by side."""


def network_options(original: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of our network, `img_resolution` included, for options with the originals' names.

    An option that is not given has the value of the original networks, or is left out where that is ours as well, or
    has none. Raises UserError for an unknown option or one that cannot be read.
    """
    unknown = next((name for name in original if name not in RENAMED and name not in OTHERS), None)
    if unknown:
        known = sorted({*RENAMED, *OTHERS})
        raise UserError(f"no option {unknown!r} of an ADM network{did_you_mean(unknown, known)}: {', '.join(known)}")
    ours = {**DEFAULTS, **{RENAMED[name]: value for name, value in original.items() if name in RENAMED}}
    if "pool" in ours:
        ours["pool"] = POOLS.get(ours["pool"], ours["pool"])
    side = original.get("large_size") or original.get("image_size")
    if side is not None:
        ours["img_resolution"] = side
    if original.get("channel_mult"):
        ours["channel_mult"] = numbers("channel_mult", original["channel_mult"])
    elif side in MULTIPLIERS:
        ours["channel_mult"] = list(MULTIPLIERS[side])
    if attention_places(original) is not None:
        ours["attn_resolutions"] = sides(attention_places(original), side)
    return ours | heads(original)


def attention_places(original: Mapping[str, Any]) -> Any:
    """Return where attention is asked for, in the original's form; None if that is not said."""
    return original.get("attention_resolutions", original.get("classifier_attention_resolutions"))


def heads(original: Mapping[str, Any]) -> dict[str, Any]:
    """Return `num_heads` or `channels_per_head`: the originals use a width per head if it is positive."""
    width, upsample = original.get("num_head_channels"), original.get("num_heads_upsample")
    if width is not None and width > 0:
        return {"channels_per_head": width}
    ours = {"num_heads": original.get("num_heads", 1)}
    return ours | ({"num_heads_upsample": upsample} if upsample is not None and upsample > 0 else {})


def sides(places: str | int | list[int], side: int | None) -> list[int]:
    """Return the sides with attention: a string lists them, a list has the factors by which they are smaller."""
    if isinstance(places, (str, int)):
        return [int(place) for place in numbers("attention_resolutions", str(places))]
    if side is None:
        raise UserError(f"attention_resolutions={list(places)} are factors of image_size, which is missing; give it")
    factors = numbers("attention_resolutions", places)
    if any(factor < 1 for factor in factors):
        raise UserError(f"attention_resolutions={list(places)} must be factors of 1 or more, or text such as 32,16,8")
    return [int(side // factor) for factor in factors]


def numbers(name: str, value: str | list[float]) -> list[float]:
    """Return a list of numbers, which may be written `1,2,2`. Raises UserError if it is something else."""
    try:
        parts = value.split(",") if isinstance(value, str) else list(value)
        return [int(number) if float(number).is_integer() else float(number) for number in parts]
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}={value!r} must be a list of numbers such as 1,2,2") from error


INTEGERS = (
    "image_size",
    "large_size",
    "small_size",
    "num_classes",
    "num_heads",
    "num_head_channels",
    "diffusion_steps",
)


def tidy(original: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as their programs' command lines mean them, with `True` and `64` as values, not as text.

    Raises UserError for a size or count that is no integer.
    """
    words = {"true": True, "false": False}
    result = {}
    for name, value in original.items():
        if isinstance(value, str):
            value = words.get(value.lower(), int(value) if value.isdecimal() else value)
        if name in INTEGERS and (not isinstance(value, int) or isinstance(value, bool)):
            raise UserError(f"{name}={value!r} must be an integer")
        result[name] = value
    return result
