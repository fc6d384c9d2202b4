"""Verifies all arrays of a dataset, and reports the statistics of each channel."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.preparation.fields.convert import channel_table
from elucid.training.data.arrays.missing import MissingValues
from elucid.training.data.arrays.statistics import ChannelStream, ChannelSummary
from elucid.training.data.base import Dataset

_AHEAD = 256  # arrays per thread that may wait to be measured


@dataclass(repr=False)
class ArrayVerdict:
    """Result of a successful verification of arrays; `summary` has the statistics of each channel in own units."""

    dataset: Dataset
    dtype: np.dtype
    summary: ChannelSummary
    missing: MissingValues

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report, warnings last."""
        dataset, found, known = self.dataset, self.summary, self.dataset.arrays or {}
        height, width = dataset.resolution
        yield f"arrays: {len(dataset)}"
        yield f"size: {width}x{height}"
        yield f"channels: {dataset.channels} ({self.dtype})"
        yield self._labels_line()
        columns = {"mean": found.mean, "deviation": found.std, "least": found.minimum, "largest": found.maximum}
        columns |= {"median": found.median, "robust dev.": found.robust_std}
        yield from channel_table(columns, known)
        if known.get("mean") is not None:
            yield from channel_table({"normalised by": known["mean"], "and": known["std"]}, known)
        else:
            yield "normalised by mean and deviation, which training measures, since the dataset states none"
        for channel in found.constant:
            yield f"warning: channel {channel} is constant; leave it out by dataset_tool.py --array-channels"
        if line := self.missing.line():
            yield f"warning: {line}; training cannot use them: dataset_tool.py --missing=drop, mean or a number"
        yield "all arrays and labels are valid"

    def _labels_line(self) -> str:
        labels = getattr(self.dataset, "labels", None)
        if labels is None:
            return "classes: none, the arrays have no labels"
        return f"classes: {labels.dim}" if labels.are_classes else f"labels: vectors of width {labels.dim}"


def verify_arrays(dataset: Dataset, workers: int, progress: bool = True) -> ArrayVerdict:
    """Read all arrays. Raises UserError that counts and names those that are damaged or differ."""
    stream, missing, bad = ChannelStream(dataset.channels), MissingValues(), []
    name_of = getattr(dataset, "image_name", lambda index: f"{dataset.path}[{index}]")

    def read(index: int) -> np.ndarray | UserError:
        try:
            return dataset.image(index)
        except UserError as error:
            return error

    bar = progress_bar(total=len(dataset), desc="verifying", disable=not progress, delay=0.5)
    dtype = dataset.image(0).dtype
    with bar, ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(dataset), _AHEAD * workers):  # a single `map` would hold all of them
            part = range(start, min(start + _AHEAD * workers, len(dataset)))
            for index, array in zip(part, pool.map(read, part), strict=True):
                if isinstance(array, UserError):
                    bad.append(str(array))
                else:
                    missing.add(name_of(index), array)
                    stream.add(array)
                bar.update()
    if bad:
        raise UserError(
            f"{len(bad)} of {len(dataset)} arrays are bad: {' | '.join(bad[:5])}{' | ...' * (len(bad) > 5)}; replace "
            "or remove them, or convert the arrays again with dataset_tool.py"
        )
    return ArrayVerdict(dataset, dtype, stream.summary(), missing)
