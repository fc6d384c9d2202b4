"""What names and shapes of a transformer's state dict tell, and what they do not."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.training.registry.transformer_options import SIZES

Shapes = Mapping[str, tuple[int, ...]]
GELU, SWIGLU, SPLIT = "blocks.0.mlp.fc1.weight", "blocks.0.mlp.w12.weight", "blocks.0.mlp.w1.weight"


@dataclass
class Told:
    """What shapes tell. `families` are those that the weights fit; `channels` and `side` are the network's input.

    `options` are our options of the network; `rows` those of the label table, 0 without labels; `doubled` is whether it
    has twice the channels as output; `side` is None where nothing tells it.
    """

    families: tuple[str, ...]
    channels: int
    rows: int
    doubled: bool = False
    side: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def told(shapes: Shapes, patch: int | None = None) -> Told:
    """Return what the shapes tell; `patch` is used only where they do not tell it, for DDT (2 by default).

    Raises UserError for weights that are none of these families'.
    """
    try:
        return _told(shapes, patch)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        lacking = f"lacks {error.args[0]}" if isinstance(error, KeyError) else "has weights of odd shapes"
        raise UserError(f"it {lacking}, so it is no DiT, SiT, JiT, REPA, LightningDiT or DDT") from error


def _told(shapes: Shapes, patch: int | None) -> Told:
    width = shapes["t_embedder.mlp.2.weight"][0]
    depth = 1 + max(int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d{1,4})\.", name)))
    options: dict[str, Any] = {"model_channels": width, "depth": depth}
    embedding = shapes.get("x_embedder.proj.weight") or shapes["x_embedder.proj1.weight"]
    n_out = shapes["final_layer.linear.weight"][0]
    if len(embedding) == 2:  # DDT's linear map, where the patch and the channels are one number
        options["patch"] = patch or 2
        channels = embedding[1] // options["patch"] ** 2
        if channels * options["patch"] ** 2 != embedding[1]:
            raise UserError(f"patch_size={patch}, but the weights have patches of {embedding[1]} numbers")
    else:
        channels, options["patch"] = embedding[1], embedding[3]
    pixels = channels * options["patch"] ** 2
    if n_out not in (pixels, 2 * pixels):
        raise UserError(f"it makes patches of {n_out} numbers from patches of {pixels}; published are as many or twice")
    heads = shapes.get("blocks.0.attn.q_norm.weight")
    rotary = shapes.get("feat_rope.freqs_cos")
    if heads or rotary:
        options["num_heads"] = width // (heads[0] if heads else rotary[1])
    rows = shapes.get("y_embedder.embedding_table.weight", (0,))[0]
    families, own = _form(shapes, width, n_out == 2 * pixels)
    return Told(families, channels, rows, n_out == 2 * pixels, _side(shapes, width, options["patch"]), options | own)


def _form(shapes: Shapes, width: int, doubled: bool) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the families with such a form of blocks, and the options that it shows."""
    if SPLIT in shapes:
        return ("ddt",), _ratio(width, shapes[SPLIT][0], gated=True)
    if "x_embedder.proj1.weight" in shapes:
        tokens = shapes.get("in_context_posemb", (1, 0))[1]
        bottleneck = shapes["x_embedder.proj1.weight"][0]
        more = {"bottleneck": bottleneck, "context_tokens": tokens}
        return ("jit",), more | _ratio(width, shapes[SWIGLU][0] // 2, gated=True)
    gated = SWIGLU in shapes
    options: dict[str, Any] = {
        "norm": "rms" if "blocks.0.norm1.weight" in shapes else "layer",
        "mlp": "swiglu" if gated else "gelu",
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "shift": shapes["blocks.0.adaLN_modulation.1.weight"][0] == 6 * width,
        **_ratio(width, shapes[SWIGLU][0] // 2 if gated else shapes[GELU][0], gated),
    }
    rotary = "feat_rope.freqs_cos" in shapes
    if gated or rotary or options["norm"] == "rms":
        return ("lightningdit",), options | {"rotary": rotary}
    # REPA's are SiT's with the channels that SiT leaves unused left out.
    return (("dit", "sit") if doubled else ("repa", "dit")), options


def _ratio(width: int, hidden: int, gated: bool) -> dict[str, float]:
    """Return the option `mlp_ratio` that gives so many hidden channels, if it is not the default."""
    for ratio in (4.0, hidden / width, hidden * 1.5 / width, (hidden * 1.5 + 1) / width):
        inner = int(width * ratio)
        if (inner * 2 // 3 if gated else inner) == hidden:
            return {} if ratio == 4.0 else {"mlp_ratio": ratio}
    raise UserError(f"blocks of {hidden} hidden channels at a width of {width} are not supported")


def _side(shapes: Shapes, width: int, patch: int) -> int | None:
    """Return the side of the input, by the number of positions. Raises UserError unless they form a square."""
    positions = shapes.get("pos_embed")
    if positions is None:
        return None
    grid = math.isqrt(positions[1])
    if not grid or grid * grid != positions[1] or positions != (1, positions[1], width):
        raise UserError(f"its positions {list(positions)} are no square of width {width}; only square images are read")
    return grid * patch


def size_of(families: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the published size with this depth and width, or none."""
    for family in families:
        for size in SIZES["sit" if family == "repa" else family].values():
            if all(options[name] == size[name] for name in ("depth", "model_channels")):
                return size
    return {}
