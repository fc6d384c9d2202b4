"""Converts arrays of any source to a dataset of `.npy` files, with mean and deviation of each channel."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.preparation.fields.sources import SampleSource, open_array_source
from elucid.preparation.writer import archive_name, open_destination, require_elsewhere
from elucid.training.data import npy
from elucid.training.data.arrays.form import DTYPES, NAME
from elucid.training.data.arrays.missing import MissingValues
from elucid.training.data.arrays.statistics import ChannelStream, ChannelSummary

LARGEST = {name: np.iinfo(name).max if name.startswith("u") else float(np.finfo(name).max) for name in DTYPES}
MISSING = ("refuse", "drop", "mean")


@dataclass(frozen=True)
class ArrayOptions:
    """How arrays are converted.

    `axes` of the source, as NHWC; `array_channels` are those to keep, in this order; `dtype` that of the files, by
    default the source's. `missing` values that are not finite: refuse them, drop such samples, put the channel's mean
    of what is known, or a number in their place. `normalise` is std, or robust for median and 1.4826 MAD; `mean` and
    `std` are given ones. `channel_names` and `units` describe the channels.
    """

    axes: str | None = None
    array_channels: Sequence[int] | None = None
    dtype: str | None = None
    missing: str = "refuse"
    normalise: str = "std"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    channel_names: Sequence[str] | None = None
    units: Sequence[str] | None = None

    @property
    def filling(self) -> float | None:
        """The number that `missing` names; None for a policy. Raises UserError for anything else."""
        if self.missing in MISSING:
            return None
        try:
            value = float(self.missing)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"`missing`={self.missing} must be {', '.join(MISSING)} or a number to put there")
        return value


@dataclass(repr=False)
class ArrayReport:
    """Result of a conversion of arrays."""

    source: str
    destination: str
    count: int
    shape: tuple[int, int, int]
    dtype: str
    labels: str
    encoder: dict
    minimum: np.ndarray
    maximum: np.ndarray
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        channels, height, width = self.shape
        yield f"{self.count} arrays of {width}x{height}, {channels} channels, {self.dtype}, from {self.source}"
        yield self.labels
        columns = {"mean": self.encoder["mean"], "deviation": self.encoder["std"]}
        yield from channel_table(columns | {"least": self.minimum, "largest": self.maximum}, self.encoder)
        yield "normalised by mean and deviation"
        yield from (f"note: {note}" for note in self.notes)
        yield f"written: {self.destination}"


def convert_arrays(
    source: str,
    destination: str | os.PathLike,
    options: ArrayOptions,
    *,
    max_images: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> ArrayReport:
    """Convert arrays to `.npy` files of one shape and type in a .zip or new folder, with `dataset.json`.

    The source is read twice: for its statistics, which are those of what is kept, and for the files. Raises UserError
    naming sample and place of what is not finite, constant channels and options that do not fit, without leaving an
    incomplete destination.
    """
    require_elsewhere(source, destination)
    opened = open_array_source(source, options.axes)
    count = len(opened) if max_images is None else min(max_images, len(opened))
    if count < 1:
        raise UserError(f"`max_images`={max_images} leaves no arrays; it must be at least 1")
    conversion = _Conversion(opened, options)
    bar = progress_bar(range(count), desc="measuring", disable=not progress, delay=0.5)
    kept = [index for index in bar if conversion.measure(index)]
    if not kept:
        raise UserError(f"all arrays of {source} have values that are not finite; choose another `missing`")
    encoder = conversion.encoder()
    summary, dtype = conversion.summary, conversion.require_dtype()
    with open_destination(destination, overwrite) as write:
        bar = progress_bar(kept, desc="writing", disable=not progress, delay=0.5)
        for index in bar:  # numbered as in the source, so that maps beside them stay theirs where some are dropped
            write(archive_name(index, npy.SUFFIX), npy.to_npy(conversion.made(index).astype(dtype)))
        write("dataset.json", _dataset_json(opened, kept, encoder))
    channels = conversion.channels
    about = (len(kept), (len(channels), *opened.shape[1:]), str(dtype), _labels_line(opened), encoder)
    notes = [*opened.notes, *conversion.notes(count - len(kept))]
    return ArrayReport(source, str(destination), *about, summary.minimum, summary.maximum, notes)


def channel_table(columns: Mapping[str, Sequence[float]], encoder: dict) -> Iterator[str]:
    """Yield the lines of a table of numbers [C] by channel, with the names and units that an encoder has."""
    count = len(next(iter(columns.values())))
    names, units = (encoder.get(key) or [""] * count for key in ("channel_names", "units"))
    yield f"{'channel':>16} " + " ".join(f"{head:>12}" for head in columns)
    for index, numbers in enumerate(zip(*columns.values(), strict=True)):
        name = (names[index] or str(index))[:16]
        yield (f"{name:>16} " + " ".join(f"{one:12.5g}" for one in numbers) + f"  {units[index]}").rstrip()


class _Conversion:
    """What is known of the source and its statistics while it is read."""

    def __init__(self, source: SampleSource, options: ArrayOptions):
        self.source, self.options, self.fill = source, options, options.filling
        total = source.shape[0]
        self.channels = list(range(total)) if options.array_channels is None else list(options.array_channels)
        if not self.channels or not all(0 <= one < total for one in self.channels):
            given = ",".join(map(str, self.channels))
            raise UserError(f"`array_channels`={given}: {source.name} has the channels 0 to {total - 1}")
        for name in ("channel_names", "units", "mean", "std"):
            value = getattr(options, name)
            if value is not None and len(value) != len(self.channels):
                count = len(self.channels)
                raise UserError(f"`{name}` has {len(value)} entries for {count} channels; give one for each")
        if (options.mean is None) != (options.std is None):
            raise UserError("`mean` and `std` belong together; give both, one number for each channel, or neither")
        if options.dtype is not None and options.dtype not in DTYPES:
            raise UserError(f"`dtype`={options.dtype} must be one of {', '.join(DTYPES)}")
        self.stream, self.missing = ChannelStream(len(self.channels)), MissingValues()
        self.whole = True  # whether all values are whole numbers, which an integer type holds

    @cached_property
    def summary(self) -> ChannelSummary:
        """The statistics of all samples that were measured."""
        return self.stream.summary()

    def chosen(self, index: int) -> np.ndarray:
        return self.source.array(index)[self.channels]

    def measure(self, index: int) -> bool:
        """Add a sample to the statistics; returns whether it is kept."""
        array, name = self.chosen(index), self.source.array_name(index)
        if self.missing.add(name, array):
            if self.options.missing == "refuse":
                raise UserError(
                    f"{self.missing.line()}; remove them, or choose `missing`=drop (such samples), mean (of the "
                    "channel) or a number to put there"
                )
            if self.options.missing == "drop":
                return False
        array = array if self.fill is None else np.where(np.isfinite(array), array, self.fill)
        self.stream.add(array)
        if self.whole and array.dtype.kind == "f":
            self.whole = bool((array == np.rint(array)).all())
        return True

    def encoder(self) -> dict:
        """Return the encoder of the arrays. Raises UserError for constant channels."""
        summary, options = self.summary, self.options
        robust = options.normalise == "robust"
        mean, std = (summary.median, summary.robust_std) if robust else (summary.mean, summary.std)
        if options.mean is not None and options.std is not None:
            mean, std = np.array(options.mean, dtype=np.float64), np.array(options.std, dtype=np.float64)
            if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
                raise UserError("`mean` and `std` must be finite, and `std` above 0")
        elif constant := summary.constant:
            place, value = constant[0], summary.minimum[constant[0]]
            raise UserError(
                f"channel {self.channels[place]} of {self.source.name} is constant ({value:g}); leave it out with "
                "`array_channels`, or give `mean` and `std`"
            )
        elif (std <= 0).any():
            place = int(np.flatnonzero(std <= 0)[0])
            raise UserError(
                f"more than half of channel {self.channels[place]} of {self.source.name} is one value, so its robust "
                "deviation is 0; use `normalise`=std, or give `mean` and `std`"
            )
        encoder = {"name": NAME, "mean": mean.tolist(), "std": std.tolist()}
        own = {key: [texts[place] for place in self.channels] for key, texts in self.source.about.items()}
        named = {key: getattr(options, key) or own.get(key) for key in ("channel_names", "units")}
        return encoder | {key: list(value) for key, value in named.items() if value is not None}

    def require_dtype(self) -> np.dtype:
        """Return the type of the files. Raises UserError if values do not fit into it, or it must be chosen."""
        own, summary = self.source.dtype, self.summary
        name = self.options.dtype or (own.name if own.name in DTYPES else "float32" if own.kind == "f" else None)
        least, largest = summary.minimum.min(), summary.maximum.max()
        if name is None:
            fits = [one for one in ("uint8", "uint16") if least >= 0 and largest <= LARGEST[one]]
            raise UserError(
                f"{self.source.name} is of {own}, {least:g} to {largest:g}; choose the `dtype` of the files: "
                f"{', '.join([*fits, 'float32'])}"
            )
        if name.startswith("u") and not (least >= 0 and largest <= LARGEST[name] and self.whole):
            raise UserError(f"`dtype`={name} does not hold {least:g} to {largest:g} of {own}; use float32")
        if max(abs(least), abs(largest)) > LARGEST[name]:
            raise UserError(f"`dtype`={name} ends at {LARGEST[name]:g}, and there are {least:g} to {largest:g}")
        self._require_precision(np.dtype(name))
        return np.dtype(name)

    def _require_precision(self, dtype: np.dtype) -> None:
        """Raise UserError if rounding to this type would change a channel by more than a hundredth of its deviation."""
        if dtype.kind != "f" or dtype == self.source.dtype:
            return
        largest = np.maximum(np.abs(self.summary.minimum), np.abs(self.summary.maximum))
        with np.errstate(over="ignore"):
            step = np.spacing(largest.astype(dtype)).astype(np.float64)
        place = int(np.argmax(step / np.maximum(self.summary.std, 1e-300)))
        if step[place] > 0.01 * self.summary.std[place]:
            raise UserError(
                f"channel {self.channels[place]} of {self.source.name} has deviation {self.summary.std[place]:.3g}, "
                f"and `dtype`={dtype} steps of {step[place]:.3g} at its largest value; use a type that holds it, or "
                "subtract a constant"
            )

    def made(self, index: int) -> np.ndarray:
        """Return a kept sample, its missing values replaced."""
        array = self.chosen(index)
        if array.dtype.kind != "f" or np.isfinite(array).all():
            return array
        return np.where(np.isfinite(array), array, self.summary.mean[:, None, None] if self.fill is None else self.fill)

    def notes(self, dropped: int) -> Iterator[str]:
        """Yield what was done to missing values, and to the type."""
        own, made = self.source.dtype, self.require_dtype()
        if own.kind == "f" and made.itemsize < own.itemsize:
            yield f"{own} rounded to {made}"
        if line := self.missing.line():
            done = f"{dropped} samples left out" if self.options.missing == "drop" else "replaced"
            yield f"{line}: {done}"


def _labels_line(source: SampleSource) -> str:
    labels = source.labels
    if labels is None:
        return "no labels"
    return f"{labels.dim} classes" if labels.are_classes else f"label vectors of width {labels.dim}"


def _dataset_json(source: SampleSource, kept: Sequence[int], encoder: dict) -> bytes:
    content: dict[str, object] = {"labels": None, "encoder": encoder}
    if source.labels is not None:
        pairs = []
        for index in kept:
            label = source.label(index)
            label = label.tolist() if isinstance(label, np.ndarray) else label
            if label is not None:
                pairs.append([archive_name(index, npy.SUFFIX), label])
        content["labels"] = pairs or None
        if source.labels.class_names:
            content["class_names"] = source.labels.class_names
    return json.dumps(content).encode()
