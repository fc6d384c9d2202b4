"""Sources of labelled arrays: one array of all samples, and folders or zips of one file for each."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.json_text import parse_json
from elucid.dnnlib.remote.hub import is_hub
from elucid.training.data.archives import FileSet, open_files
from elucid.training.data.arrays.axes import Axes
from elucid.training.data.arrays.form import are_arrays
from elucid.training.data.arrays.members import holds_arrays, is_array, read_any
from elucid.training.data.arrays.tables import ArrayTable, SourceTable, table_at
from elucid.training.data.folders import find_labels
from elucid.training.data.labels import Labels
from elucid.training.data.latents import encoder_of


class NamedArray(NamedTuple):
    """A sample [C,H,W] in own units and the source's dtype; `label` is a class, a vector, or None."""

    name: str
    array: np.ndarray
    label: int | np.ndarray | None


class SampleSource(ABC):
    """Base class: samples of one shape in a fixed order, which are read one by one. Can be pickled."""

    name: str
    labels: Labels | None = None
    shape: tuple[int, int, int]  # C, H, W
    dtype: np.dtype
    about: Mapping[str, list] = MappingProxyType({})  # `channel_names` and `units` [C], if the source says them
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def array_name(self, index: int) -> str:
        """Return the name of a sample for messages."""

    @abstractmethod
    def array(self, index: int) -> np.ndarray:
        """Return a sample [C,H,W]. Raises UserError naming it if it is corrupt, or of another shape or dtype."""

    def label(self, index: int) -> int | np.ndarray | None:
        """Return the class or vector of a sample; None if it has none."""
        if self.labels is None:
            return None
        value = self.labels.values[index]
        if self.labels.are_classes:
            return int(value) if value >= 0 else None
        return None if np.isnan(value[0]) else value

    def __iter__(self) -> Iterator[NamedArray]:
        for index in range(len(self)):
            yield NamedArray(self.array_name(index), self.array(index), self.label(index))


class TableSource(SampleSource):
    """One array of all samples."""

    def __init__(self, table: ArrayTable):
        self._table, self.name, self.labels = table, table.name, table.labels
        self.shape, self.dtype = (table.channels, *table.resolution), table.dtype
        self.about = {key: table.arrays[key] for key in ("channel_names", "units") if key in table.arrays}

    def __len__(self) -> int:
        return len(self._table)

    def array_name(self, index: int) -> str:
        return self._table.image_name(index)

    def array(self, index: int) -> np.ndarray:
        return self._table.image(index)


class MemberSource(SampleSource):
    """Files of a folder or zip: [C,H,W], [H,W] with one channel, or other `axes`, of which N is left out.

    Labels come from its `dataset.json`, or else from the top-level folders.
    """

    def __init__(self, files: FileSet, axes: str | None = None):
        self._files, self.name = files, files.name
        encoder = _encoder(files) or {}
        self.about = {key: encoder[key] for key in ("channel_names", "units") if key in encoder}
        self._axes = Axes(axes.upper()) if axes else None
        self._where = [i for i, name in enumerate(files.names) if is_array(name)]
        if not self._where:
            raise UserError(f"{files.path} contains no arrays; check the path")
        found = find_labels(files, [files.names[i] for i in self._where])
        self.labels = found.labels
        first = self._read(0)
        self.shape, self.dtype = first.shape, first.dtype
        ignored = len(files) - len(self) - found.has_json
        self.notes = (f"{ignored} files that are not arrays were ignored",) if ignored else ()
        if "mean" in encoder:
            self.notes += ("mean and deviation are measured anew; `mean` and `std` give those that the source has",)

    def __len__(self) -> int:
        return len(self._where)

    def array_name(self, index: int) -> str:
        return self._files.label_of(self._where[index])

    def array(self, index: int) -> np.ndarray:
        array = self._read(index)
        if array.shape != self.shape or array.dtype != self.dtype:
            what = "shape" if array.shape != self.shape else "dtype"
            raise UserError(
                f"the arrays differ in {what}: {self.array_name(0)} is {self.dtype} {list(self.shape)}, "
                f"{self.array_name(index)} is {array.dtype} {list(array.shape)}; make all alike"
            )
        return array

    def _read(self, index: int) -> np.ndarray:
        name = self.array_name(index)
        array = read_any(self._files.read(self._where[index]), name)
        axes = self._axes or Axes({1: "NW", 2: "NHW"}.get(array.ndim, "NCHW"))
        if len(axes.letters) != array.ndim + 1:
            raise UserError(
                f"{name} has {array.ndim} axes, {list(array.shape)}, not those of {axes.letters[1:]}; give its `axes`, "
                "N first, as NCW or NHWC"
            )
        return np.ascontiguousarray(axes.sample(array))


def _encoder(files: FileSet) -> dict | None:
    """Return what a converted dataset says of its arrays. Raises UserError for latents."""
    place = files.find("dataset.json")
    text = b"" if place is None else files.read(place)
    where = f"{files.path}/dataset.json"
    encoder = encoder_of(parse_json(text, where, len(files)), where) if b'"encoder"' in text else None
    if encoder is not None and not are_arrays(encoder):
        raise UserError(f"{files.path} holds latents, not arrays; give what they were encoded from")
    return encoder


def is_array_source(source: str) -> bool:
    """Return whether a source is of arrays: a file of one array, or a folder or zip with arrays and no pictures."""
    if source.startswith("builtin:") or is_hub(source):
        return False
    if table_at(source) is not None:
        return True
    if not (os.path.isdir(source) or ".zip" in source.lower()) or os.path.isfile(os.path.join(source, "data.mdb")):
        return False
    return holds_arrays(open_files(source))


def open_array_source(source: str, axes: str | None = None, labels: str = "labels") -> SampleSource:
    """Open a source of arrays: `fields.h5[/name]`, `.zarr`, `.npy`, `.npz`, or a folder or zip of array files.

    `axes` are letters, N first, as NHWC; by default [N,C,H,W] of four axes and [N,H,W] of three. `labels` names the
    array of labels beside that of samples. Raises UserError if it is missing or unreadable.
    """
    if table_at(source) is None:
        return MemberSource(open_files(source), axes)
    return TableSource(SourceTable(source, axes=axes, labels=labels))
