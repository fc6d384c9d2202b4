"""The resolutions at which a U-Net works."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.networks.layers import Resample, StridedConv2d


@dataclass(frozen=True)
class Resolution:
    index: int
    height: int
    width: int
    channels: int
    attention: bool

    @property
    def name(self) -> str:
        """`{height}x{width}`, the prefix of this resolution's blocks in the published parameter names."""
        return f"{self.height}x{self.width}"


BOTTLENECK = "bottleneck"
"""The inner layer of a U-Net that losses may see: the output of the middle blocks, at the lowest resolution."""


def inner_layers(features: Iterable[str]) -> tuple[str, ...]:
    """Return the names of inner layers. Raises UserError unless each is one that U-Nets have, which is one."""
    for name in features:
        if name != BOTTLENECK:
            raise UserError(f"the network has no inner layer {name!r}; a U-Net has {BOTTLENECK}")
    return tuple(features)


def limit_dropout(blocks: Mapping[str, nn.Module], largest_side: int | None) -> None:
    """Take dropout from the blocks, by their published names, of larger sides than this, if it is given."""
    if largest_side is None:
        return
    for name, block in blocks.items():
        if hasattr(block, "dropout") and min(map(int, name.partition("_")[0].split("x"))) > largest_side:
            block.dropout.p = 0.0


class ResolutionPlan:
    """Resolutions from full size down, each half the previous; with attention if the shorter side is listed.

    `img_resolution` is the side of a square or [height, width]; `attn_resolutions` lists the sides with attention.
    Where `lines` are allowed, a side of 1, as of spectra, stays 1, and attention goes by the other. Raises UserError if
    another side is not divisible by 2^halvings.
    """

    def __init__(self, img_resolution, channel_mult, model_channels: int, attn_resolutions, lines: bool = False):
        size = [img_resolution] * 2 if isinstance(img_resolution, int) else list(img_resolution)
        single = [axis for axis, side in enumerate(size) if side == 1] if lines and len(channel_mult) > 1 else []
        self.kept = single[0] + 2 if len(single) == 1 else None
        self.model_channels = model_channels
        self.halvings = len(channel_mult) - 1
        if not channel_mult:
            raise UserError("channel_mult is empty; give one multiplier per resolution, e.g. `cres`=1,2,2,2")
        widths = [model_channels * multiplier for multiplier in channel_mult]
        if model_channels < 2 or model_channels % 2 or min(widths) < 1 or any(width % 1 for width in widths):
            raise UserError(
                f"model_channels={model_channels} times channel_mult={list(channel_mult)} gives invalid widths; use an "
                "even `cbase` and `cres` of 1 or more"
            )
        divisor = 2**self.halvings
        if any(side % divisor for axis, side in enumerate(size) if axis + 2 != self.kept):
            raise UserError(
                f"a network of {len(channel_mult)} resolutions halves {size[0]}x{size[1]} {self.halvings} times, "
                f"which is not divisible by {divisor}; use fewer resolutions (`cres`) or images of another size"
            )
        self.resolutions = []
        for index, channels in enumerate(widths):
            height, width = (side if axis + 2 == self.kept else side >> index for axis, side in enumerate(size))
            shorter = max(height, width) if self.kept is not None else min(height, width)
            attention = shorter in attn_resolutions
            self.resolutions.append(Resolution(index, height, width, int(channels), attention))

    def keep_lines(self, network: nn.Module) -> None:
        """Let all layers of a network that resample keep the side of 1, if there is one."""
        for layer in network.modules():
            if isinstance(layer, (Resample, StridedConv2d)):
                layer.kept = self.kept

    @staticmethod
    def require_blocks(num_blocks: int, dropout: float) -> None:
        if num_blocks < 1:
            raise UserError(f"num_blocks={num_blocks} must be 1 or more")
        if not 0 <= dropout <= 1:
            raise UserError(f"dropout={dropout} must be between 0 and 1")

    @staticmethod
    def require(option: str, value: str, choices: tuple[str, ...]) -> None:
        if value not in choices:
            raise UserError(f"{option}={value!r} is unknown; choose from {', '.join(choices)}")
