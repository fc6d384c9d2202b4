"""Finds the state dicts in a file of a transformer, which may hold several averages under keys or prefixes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError

MARKS = ("x_embedder.proj.weight", "x_embedder.proj1.weight")
"""Weights that all of these transformers have, and U-Nets do not."""
WRAPPERS = ("module.", "net.", "_orig_mod.")
"""Prefixes that say nothing of what the weights are."""
DEEPEST = 3
COUNTER = "bn.num_batches_tracked"
"""The only weights that are not floating-point numbers."""


def state_dicts(content: Any) -> dict[str, dict[str, Tensor]]:
    """Return the state dicts of transformers in a file's content by name, without prefixes, averages first.

    The name is the key under which it lies (`model_ema1`), or its prefix (`ema_denoiser`); "ema" if it has neither. An
    empty dict means that there is none.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, prefix, weights in _found(content, "", DEEPEST):
        name = _bare(prefix).rstrip(".") or key or "ema"
        found.setdefault(name, weights)
    return dict(sorted(found.items(), key=lambda item: "ema" not in item[0]))


def _bare(prefix: str) -> str:
    while prefix.startswith(WRAPPERS):
        prefix = prefix.partition(".")[2]
    return prefix


def _found(content: Any, key: str, depth: int) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """Yield key, prefix and weights of each state dict of a transformer, in the content or nested in it."""
    if not isinstance(content, dict) or not depth:
        return
    flat = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    prefixes = [name.removesuffix(mark) for mark in MARKS for name in flat if name.endswith(mark)]
    for prefix in dict.fromkeys(prefixes):
        if prefix == "" or prefix.endswith("."):
            yield key, prefix, {name[len(prefix) :]: value for name, value in flat.items() if name.startswith(prefix)}
    if not prefixes:
        for name, value in content.items():
            # The usual key of a whole file says nothing; that of one of several state dicts is its name.
            own = name if isinstance(name, str) and name not in ("state_dict", "model_state_dict") else key
            yield from _found(value, own, depth - 1)


def require_weights(weights: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Return weights in float32. Raises UserError for other kinds of numbers, and for more than `size` bytes."""
    for name, value in weights.items():
        if not value.is_floating_point() and name != COUNTER:
            raise UserError(f"the weights {name} are {value.dtype}, not floating-point numbers")
    if sum(value.numel() * value.element_size() for value in weights.values()) > size:
        raise UserError("its weights would be larger than the file; get the file again")
    return {name: value.to(torch.float32) for name, value in weights.items()}
