"""What the shapes of an ADM state dict tell about its network, and whether options agree with it.

The resolution, the heads and the noise schedule cannot be told; several answers are possible for the number of blocks
of a classifier whose widths are all equal.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.training.registry.adm_options import POOLS, RENAMED, attention_places, numbers, sides

Shapes = Mapping[str, Sequence[int]]
"""Shapes of weights by name, without a prefix."""

STAGE = re.compile(r"(input_blocks|output_blocks)\.(\d{1,4})\.(\d)\.(.+)")
RGB = 3


@dataclass(frozen=True)
class Told:
    """What shapes tell: `options` of the network, and the rest of its interface.

    `attention` are the indices of the resolutions with attention, 0 for the finest; `last_side` is the side at which a
    classifier pools, if it has positions.
    """

    classifier: bool
    options: dict[str, Any]
    attention: tuple[int, ...]
    in_channels: int
    out_channels: int
    classes: int
    last_side: int | None = None

    @property
    def image_size(self) -> int | None:
        """The side of the images, if the weights tell it."""
        return self.last_side and self.last_side << (len(self.options["channel_mult"]) - 1)


@dataclass
class StageShapes:
    """One entry of `input_blocks`: a residual block, perhaps with attention, or the halving between resolutions."""

    block: Sequence[int] | None = None  # shape of its first convolution
    attention: bool = False
    convolution: bool = False  # halves by a convolution

    @property
    def may_halve(self) -> bool:
        return self.block is not None and self.block[0] == self.block[1] and not self.attention


@dataclass
class Split:
    """Residual blocks by resolution, and how the resolutions are joined."""

    resolutions: list[list[StageShapes]]
    joined: dict[str, bool] = field(default_factory=dict)

    @property
    def is_possible(self) -> bool:
        """Whether each resolution has equally many blocks, one width, and attention after all blocks or none."""
        return len({len(stages) for stages in self.resolutions}) == 1 and all(
            len({(stage.block and stage.block[0], stage.attention) for stage in stages}) == 1
            and all(stage.block is not None for stage in stages)
            for stages in self.resolutions
        )


def told(shapes: Shapes) -> list[Told]:
    """Return what the shapes tell, all possible answers. Raises UserError if they are no ADM network's."""
    try:
        return _told(shapes)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"its weights are no ADM network's ({type(error).__name__}: {error})") from error


def _told(shapes: Shapes) -> list[Told]:
    width, classifier = shapes["time_embed.0.weight"][1], not any(name.startswith("output_blocks.") for name in shapes)
    out, pool, last_side = _last(shapes, classifier)
    found = []
    for split in splits(shapes, classifier):
        first = split.resolutions[0][0].block
        condition = shapes["input_blocks.1.0.emb_layers.1.weight"][0]
        multipliers = [stages[0].block[0] / width for stages in split.resolutions]
        options = {
            "model_channels": width,
            "channel_mult_emb": shapes["time_embed.0.weight"][0] // width,
            "channel_mult": [int(number) if number.is_integer() else number for number in multipliers],
            "num_blocks": len(split.resolutions[0]),
            "scale_shift_norm": condition == 2 * first[0],
            **split.joined,
            **({"pool": pool} if pool else {}),
        }
        attention = tuple(index for index, stages in enumerate(split.resolutions) if stages[0].attention)
        classes = shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else 0
        channels = shapes["input_blocks.0.0.weight"][1]
        found.append(Told(classifier, options, attention, channels, out, classes, last_side))
    if not found:
        raise UserError("the blocks in its input_blocks are no ADM network's, equally many at each resolution")
    return found


def _last(shapes: Shapes, classifier: bool) -> tuple[int, str | None, int | None]:
    """Return output channels, pooling and the side at which it happens."""
    if not classifier:
        return shapes["out.2.weight"][0], None, None
    if "out.2.positional_embedding" in shapes:
        side = round((shapes["out.2.positional_embedding"][1] - 1) ** 0.5)
        return shapes["out.2.c_proj.weight"][0], "attention", side
    if len(shapes.get("out.3.weight", ())) == 4:
        return shapes["out.3.weight"][0], "average", None
    raise UserError("its classifier pools in a way that this program does not have; it has attention and average")


def splits(shapes: Shapes, classifier: bool) -> list[Split]:
    """Return the possible ways to divide `input_blocks` into resolutions."""
    stages = input_stages(shapes)
    ends = [index for index, stage in enumerate(stages) if stage.block is None]
    if ends:
        starts = [0, *(index + 1 for index in ends)]
        split = Split([stages[start:end] for start, end in zip(starts, [*ends, len(stages)], strict=True)])
        split.joined = {"resblock_updown": False, "conv_resample": stages[ends[0]].convolution}
        return [split] if split.is_possible else []
    counts = range(1, len(stages) + 1) if classifier else [1 + doublings(shapes)]
    found = []
    for count in counts:
        each, rest = divmod(len(stages) + 1, count)
        if rest or each < 2:
            continue
        split = Split([stages[start : start + each - 1] for start in range(0, len(stages), each)])
        if count > 1:
            split.joined = {"resblock_updown": True}
        if split.is_possible and all(stage.may_halve for stage in stages[each - 1 :: each]):
            found.append(split)
    return found


def input_stages(shapes: Shapes) -> list[StageShapes]:
    """Return the entries of `input_blocks` after the first; those without weights halve by averaging."""
    found: dict[int, StageShapes] = {}
    for name, shape in shapes.items():
        match = STAGE.fullmatch(name)
        if match and match[1] == "input_blocks" and match[2] != "0":
            stage = found.setdefault(int(match[2]), StageShapes())
            if match[4] == "in_layers.2.weight" and match[3] == "0":
                stage.block = shape
            stage.attention |= match[4] == "qkv.weight"
            stage.convolution |= match[4] == "op.weight"
    return [found.get(index, StageShapes()) for index in range(1, max(found) + 1)]


def doublings(shapes: Shapes) -> int:
    """Return the number of residual blocks that double, which follow another layer of `output_blocks`."""
    matches = filter(None, map(STAGE.fullmatch, shapes))
    return sum(m[1] == "output_blocks" and m[3] != "0" and m[4] == "in_layers.2.weight" for m in matches)


def image_channels(found: Told, original: Mapping[str, Any]) -> int:
    """Return the channels of the image. Raises UserError if no reading of the weights fits the options.

    A network that enlarges sees a low-resolution image as well; one with a learned variance has twice the output.
    """
    seen, made = found.in_channels, found.out_channels
    if found.classifier:
        return seen
    readings = [(channels, learned) for channels, learned in ((made, False), (made // 2, True)) if channels]
    readings = [(channels, learned) for channels, learned in readings if not (learned and made % 2)]
    possible = [
        (channels, learned, seen == 2 * channels)
        for channels, learned in readings
        if seen in (channels, 2 * channels)
        and original.get("learn_sigma", learned) == learned
        and ("large_size" not in original or seen == 2 * channels)
        and ("image_size" not in original or seen == channels)
    ]
    if not possible:
        names = ("learn_sigma", "image_size", "large_size")
        asked = ", ".join(f"{name}={original[name]}" for name in names if name in original)
        raise UserError(
            f"its weights take {seen} channels and give {made}"
            + (f", which does not fit {asked} (an upsampler has large_size)" if asked else "; only C or 2C can be read")
        )
    return next((channels for channels, _, _ in possible if channels == RGB), possible[0][0])


def conflict(found: Told, original: Mapping[str, Any]) -> str | None:
    """Return how options with the originals' names contradict the weights, in words; None if they do not."""
    is_classifier = asks_for_classifier(original)
    if is_classifier not in (None, found.classifier):
        kinds = {True: "a classifier", False: "a U-Net"}
        return f"options of {kinds[not found.classifier]}, but the weights are {kinds[found.classifier]}'s"
    for name, value in original.items():
        ours = RENAMED.get(name, name)
        if ours in found.options and value not in ("", None) and not same(ours, value, found.options[ours]):
            return f"{name}={value}, but the weights have {found.options[ours]}"
    if original.get("class_cond") not in (None, bool(found.classes)):
        return f"class_cond={original['class_cond']}, but the weights have {found.classes or 'no'} classes"
    if original.get("num_classes") not in (None, found.classes):
        return f"num_classes={original['num_classes']}, but the weights have {found.classes or 'no'} classes"
    size = original.get("large_size") or original.get("image_size")
    if size and found.image_size not in (None, size):
        return f"image_size={size}, but the weights are for {found.image_size}"
    if size and attention_places(original) is not None:
        there = [size >> index for index in range(len(found.options["channel_mult"]))]
        asked = sorted(set(sides(attention_places(original), size)) & set(there))
        has = sorted(there[index] for index in found.attention)
        if asked != has:
            return f"attention at {asked} of {size} pixels, but the weights have it at {has}"
    try:
        image_channels(found, original)
    except UserError as error:
        return str(error)
    return None


def asks_for_classifier(original: Mapping[str, Any]) -> bool | None:
    """Return whether options are a classifier's; None if they may be either's."""
    if "pool" in original or any(name.startswith("classifier_") for name in original):
        return True
    return False if "num_channels" in original else None


def same(ours: str, value: Any, there: Any) -> bool:
    """Return whether the value of an original option is what the weights have."""
    if ours == "channel_mult":
        return numbers(ours, value) == there
    return (POOLS.get(value, value) if ours == "pool" else value) == there
