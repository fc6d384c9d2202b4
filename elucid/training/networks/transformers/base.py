"""What all transformers share: their conditions, the grid of patches, features of inner layers, checks of options."""

import difflib
import math
import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.networks.conditioning import Conditioned
from elucid.training.networks.layers import zeros
from elucid.training.networks.resolutions import BOTTLENECK
from elucid.training.networks.transformers.embeddings import LabelEmbedder, TimeEmbedder
from elucid.training.types import Cond


class TokenNetwork(Conditioned):
    """Base class of transformers on the patches of an image, whose `blocks` are their regions.

    `features` names blocks, such as "block8", whose output tokens [B,N,D] `forward` returns in a dict beside its own;
    "bottleneck" stands for the middle one, block ceil(depth / 2).
    Conditions are embedded with `model_channels` and added: time, labels, and others by a linear map that starts at 0.
    With `context_tokens` there are as many learned positions for tokens of the labels.
    """

    fixed_size = True  # of images, since the tables of positions are for one grid
    # No `takes_channels_last`: the channels of tokens lie last in memory in any case.
    blocks: nn.ModuleList

    def __init__(
        self,
        img_resolution: int | list[int],
        vector: dict[str, int] | None,
        patch: int,
        model_channels: int,
        depth: int,
        num_heads: int,
        features: Iterable[str],
        null_class: bool,
        time_period: float,
        context_tokens: int = 0,
    ):
        super().__init__(vector)
        self.grid = patch_grid(img_resolution, patch)
        self.patch, self.img_resolution = patch, img_resolution
        require_heads(model_channels, num_heads)
        self.features, self.middle = feature_blocks(features, depth), (depth + 1) // 2
        if not 0 < time_period < math.inf:
            raise UserError(f"network.time_period={time_period} must be above 0 and finite, e.g. 10000")
        # Own weights first, in the order in which `reset_parameters` of all modules draws them.
        shape = (1, context_tokens, model_channels)
        self.in_context_posemb = nn.Parameter(torch.empty(shape)) if context_tokens else None
        self.reset_parameters()
        self.t_embedder = TimeEmbedder(model_channels, time_period)
        labels = self.vector.get("labels", 0)
        self.y_embedder = LabelEmbedder(labels, model_channels, null_class) if labels else None
        for name in ("augment", *self.further):
            self.add_map(name, model_channels, bias=False, init=zeros())

    def reset_parameters(self) -> None:
        if self.in_context_posemb is not None:
            nn.init.normal_(self.in_context_posemb, std=0.02)

    @property
    def waves(self) -> tuple[Callable[[Tensor], Tensor], int]:
        return self.t_embedder.waves, self.t_embedder.features

    def regions(self) -> Iterable[nn.Module]:
        """Return the blocks, which are compiled, sharded and recomputed one by one."""
        return self.blocks

    def embed(self, time: Tensor, cond: Cond) -> tuple[Tensor, Tensor | None]:
        """Add the vector conditions to the embedded time [B,D]; returns the sum and the part of labels in it."""
        labels = None if self.y_embedder is None else self.y_embedder(cond["labels"].to(time.dtype))
        emb = time if labels is None else time + labels
        for name in ("augment", *self.further):
            emb = self.add_mapped(emb, name, cond)
        return emb, labels

    def require_grid(self, x: Tensor) -> None:
        """Raise UserError unless images [B,C,H,W] have the size that the tables of positions are for."""
        asked, there = tuple(side * self.patch for side in self.grid), tuple(x.shape[2:])
        if asked != there:
            raise UserError(
                f"a {type(self).__name__} for images of {asked[0]}x{asked[1]} got {there[0]}x{there[1]}; give it such, "
                "or use a U-Net (`arch`), which takes images of several sizes"
            )

    def keep(self, found: dict[str, Tensor], index: int, tokens: Tensor) -> None:
        """Add the output of block `index`, counted from 0, to the features that were found, if it is one."""
        if (name := f"block{index + 1}") in self.features:
            found[name] = tokens
        if index + 1 == self.middle and BOTTLENECK in self.features:
            found[BOTTLENECK] = tokens


def patch_grid(img_resolution: int | list[int], patch: int) -> tuple[int, int]:
    """Return rows and columns of patches. Raises UserError if the patch does not divide a side."""
    height, width = [img_resolution] * 2 if isinstance(img_resolution, int) else list(img_resolution)
    fitting = [size for size in range(1, min(height, width) + 1) if height % size == 0 and width % size == 0]
    if patch not in fitting:
        raise UserError(
            f"network.patch={patch} does not divide images of {height}x{width}; use {nearest(patch, fitting)}"
        )
    return height // patch, width // patch


def require_heads(width: int, heads: int, rotary: bool = False) -> None:
    """Raise UserError unless the heads divide the width, and with `rotary` their width is one that can be rotated."""
    if width < 1:
        raise UserError(f"model_channels={width} must be 1 or more (`cbase`)")
    fitting = [count for count in range(1, width + 1) if width % count == 0]
    if heads not in fitting:
        raise UserError(
            f"network.num_heads={heads} does not divide a width of {width} (`cbase`); use {nearest(heads, fitting)}"
        )
    rotated = [count for count in fitting if width // count % 4 == 0]
    if rotary and heads not in rotated:
        use = f"use network.num_heads={nearest(heads, rotated)}" if rotated else "use a width divisible by 4"
        raise UserError(
            f"rotary positions need heads of a width divisible by 4: {width} channels (`cbase`) in {heads} heads gives "
            f"{width // heads}; {use}"
        )


def require_blocks(depth: int, width: int, mlp_ratio: float, dropout: float) -> None:
    """Raise UserError for numbers that no block has."""
    if depth < 1:
        raise UserError(f"network.depth={depth} must be 1 or more")
    if not 2 <= mlp_ratio * width < math.inf:
        raise UserError(f"network.mlp_ratio={mlp_ratio} gives the MLP no channels; use 4, or at least {2 / width:g}")
    if not 0 <= dropout < 1:
        raise UserError(f"`dropout`={dropout} must be at least 0 and below 1")


def require_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise UserError unless the value is one of the choices."""
    choices = list(choices)
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, 1)
        raise UserError(f"network.{option}={value!r} is unknown; use {close[0] if close else ', '.join(choices)}")


def nearest(value: int, fitting: list[int]) -> str:
    """Return the nearest values below and above, e.g. "2 or 4"."""
    below = [one for one in fitting if one < value][-1:]
    return " or ".join(str(one) for one in [*below, *[one for one in fitting if one > value][:1]])


def feature_blocks(features: Iterable[str], depth: int) -> tuple[str, ...]:
    """Return the names of features. Raises UserError unless each is "bottleneck" or "block1" to "block{depth}"."""
    for name in features:
        match = re.fullmatch(r"block(\d+)", name)
        if name != BOTTLENECK and (not match or not 1 <= int(match[1]) <= depth):
            raise UserError(f"the network has no inner layer {name!r}; it has block1 to block{depth}")
    return tuple(features)
