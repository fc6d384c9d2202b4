"""The description of a dataset in shards, `shards.json`: what is in it, and the size and hash of each shard."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.json_text import parse_json
from elucid.training.data.arrays.form import are_arrays
from elucid.training.data.labels import MAX_CLASSES, class_names
from elucid.training.data.latents import encoder_of

FILE = "shards.json"
FORMAT, VERSION = "elucid-shards", 1
CLASSES, VECTORS = "classes", "vectors"
_PLAIN = re.compile(r"[\w.-]{1,200}\.tar")
MOST = 1_000_000
"""Shards for which a description may have room."""

_LARGEST = 1 << 50  # of any number in a description


@dataclass(frozen=True)
class Shard:
    """A tar file: its name, the samples in it, its size in bytes, and its SHA-256."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class LabelFacts:
    """Labels are class numbers below `dim` or vectors of that width; `missing` samples have none.

    `counts` has the samples of each class.
    """

    kind: str
    dim: int
    missing: int
    counts: list[int] | None = None


@dataclass(frozen=True)
class Description:
    """A dataset in shards. Images are `dtype` [channels,height,width].

    `encoder` is that of latents, or of arrays with their mean and deviation, as in a `dataset.json`; `total` and
    `squares` are the sums of values and squares of each channel; `shuffled` ones are in a random order, the same for
    all datasets of that many images.
    """

    resolution: tuple[int, int]
    channels: int
    dtype: str
    total: list[float]
    squares: list[float]
    shuffled: bool
    shards: Sequence[Shard]
    labels: LabelFacts | None = None
    class_names: list[str] | None = None
    encoder: dict[str, Any] | None = None
    sizes: list[int] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self):
        self.sizes.extend(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """The size of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> bytes:
        """Return the content of `shards.json`."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        del content["sizes"]
        return json.dumps(content).encode()

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Description":
        """Read a description. Raises UserError naming it if it is damaged, or of another version."""
        content = parse_json(text, where, MOST)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{where} describes no shards; write them with dataset_tool.py shards")
        if content.get("version") != VERSION:
            raise UserError(f"{where} has version {content.get('version')!r}, this program reads {VERSION}; update it")
        try:
            return cls._checked(content, where)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{where} is damaged ({type(error).__name__}: {error}); write the shards again with dataset_tool.py"
            ) from error

    @classmethod
    def _checked(cls, content: dict, where: str) -> "Description":
        height, width = (_count(side) for side in content["resolution"])
        channels, encoder = _count(content["channels"]), _encoder(content, where)
        sums = [[_number(value) for value in content[name]] for name in ("total", "squares")]
        shards = [
            Shard(_name(one["name"]), _count(one["samples"]), _count(one["bytes"]), _digest(one["sha256"]))
            for one in content["shards"]
        ]
        if not shards or len({shard.name for shard in shards}) < len(shards):
            _refuse("no shards, or two of one name")
        if len(sums[0]) != len(sums[1]):
            _refuse("sums")
        labels, names = content["labels"], class_names(content["class_names"], where)
        if labels is not None:
            labels = LabelFacts(
                {CLASSES: CLASSES, VECTORS: VECTORS}[labels["kind"]],
                min(_count(labels["dim"]), MAX_CLASSES),
                _count(labels["missing"], 0),
                None if labels["counts"] is None else [_count(value, 0) for value in labels["counts"]],
            )
            lengths = [len(one) for one in (labels.counts, names) if one is not None]
            if any(length != labels.dim for length in lengths):
                _refuse("labels")
        facts = shards, labels, names, encoder
        return cls(
            (height, width), channels, np.dtype(content["dtype"]).name, *sums, content["shuffled"] is True, *facts
        )


def _encoder(content: dict, where: str) -> dict | None:
    """Return the encoder of latents or arrays, also of latents that do not say which weights made them."""
    encoder = content["encoder"]
    if not isinstance(encoder, dict) or are_arrays(encoder) or encoder.get("sha256") is not None:
        return encoder_of(content, where)
    return {**(encoder_of({"encoder": {**encoder, "sha256": ""}}, where) or {}), "sha256": None}


def _count(value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        _refuse(f"{value!r} is no count")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        _refuse(f"{value!r} is no number")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        _refuse(f"{str(value)[:50]!r} is no name of a shard")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        _refuse("a hash")
    return value


def _refuse(what: str) -> NoReturn:
    raise ValueError(what)
