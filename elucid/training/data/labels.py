"""Labels of a dataset, read from `dataset.json`: class numbers or vectors, some of which may be missing."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.json_text import parse_json
from elucid.training.data.base import Dataset

FLOAT32_MAX = float(np.finfo(np.float32).max)
MAX_CLASSES = 1_000_000
"""Larger class numbers are rejected as a mistake: one-hot labels would take megabytes each."""


@dataclass
class Labels:
    """`values` are class numbers int64 [N] (-1: no label) or vectors float32 [N, D] (NaN: no label).

    `dim` is the number of classes or the width of the vectors.
    """

    values: np.ndarray
    class_names: list[str] | None = None
    dim: int = 0

    def __post_init__(self):
        if not self.dim and self.are_classes:
            self.dim = len(self.class_names) if self.class_names else int(self.values.max(initial=-1)) + 1
        elif not self.dim:
            self.dim = self.values.shape[1]

    @property
    def are_classes(self) -> bool:
        return self.values.ndim == 1

    @property
    def missing(self) -> np.ndarray:
        """Return the positions of images without a label."""
        absent = self.values < 0 if self.are_classes else np.isnan(self.values[:, 0])
        return np.flatnonzero(absent)

    def vector(self, index: int) -> np.ndarray:
        """Return a label as float32 [dim]: one-hot for a class, all zeros if it is missing."""
        if not self.are_classes:
            return np.nan_to_num(self.values[index])
        vector = np.zeros(self.dim, dtype=np.float32)
        if self.values[index] >= 0:
            vector[self.values[index]] = 1
        return vector

    def select(self, positions: Iterable[int]) -> "Labels":
        """Return the labels of some of the images; the number of classes does not change."""
        return Labels(self.values[np.asarray(positions, dtype=np.int64)], self.class_names, self.dim)


class LabelledDataset(Dataset):
    """Base class of datasets whose labels are in memory: `_labels`, None if there are none, used if `use_labels`."""

    use_labels: bool
    _labels: Labels | None

    @property
    def has_labels(self) -> bool:  # type: ignore[override]
        """Whether there are labels, used or not."""
        return self._labels is not None

    @property
    def vector_labels(self) -> bool:  # type: ignore[override]
        """Whether labels are used and are vectors."""
        return self.use_labels and self._labels is not None and not self._labels.are_classes

    @property
    def label_dim(self) -> int:  # type: ignore[override]
        """Number of classes, or width of vector labels; 0 if labels are not used."""
        return self._labels.dim if self.use_labels and self._labels is not None else 0

    @property
    def labels(self) -> Labels | None:
        """The labels, used or not."""
        return self._labels

    @property
    def raw_labels(self) -> np.ndarray | None:
        """Labels as int64 [N], -1 if missing, or float32 [N, D], NaN if missing."""
        return None if self._labels is None else self._labels.values

    @property
    def class_names(self) -> list[str] | None:  # type: ignore[override]
        return None if self._labels is None else self._labels.class_names

    @property
    def class_counts(self) -> list[int] | None:  # type: ignore[override]
        """Number of images of each class; None if labels are not used or are vectors."""
        if not self.use_labels or self._labels is None or not self._labels.are_classes:
            return None
        values = self._labels.values
        return np.bincount(values[values >= 0], minlength=self._labels.dim).tolist()

    def label(self, index: int) -> np.ndarray:
        """Return a label, float32 [label_dim], one-hot for classes; empty if labels are not used."""
        used = self.use_labels and self._labels is not None
        return self._labels.vector(index) if used and self._labels else np.zeros(0, dtype=np.float32)


def from_json(text: bytes, images: list[str], where: str, files: int = 0) -> Labels | None:
    """Read labels from a `dataset.json`: {"labels": [[name, class or vector], ...] or null, "class_names": [...]}.

    `images` are the image names in order; `where` names the file in messages, `files` is the size of its data set.
    Returns None if there are no labels.
    Raises UserError for labels out of range, of mixed kinds, or of missing images.
    """
    content = parse_json(text, where, files)
    if not isinstance(content, dict):
        raise UserError(f'{where} must be an object {{"labels": [[name, label], ...]}}')
    if not content.get("labels"):
        return None
    pairs = _pairs(content["labels"], where)
    names = class_names(content.get("class_names"), where)
    position = {name: index for index, name in enumerate(images)}
    absent = [name for name in pairs if name not in position]
    if absent:
        raise UserError(
            f"{where} has labels for {len(absent)} missing images (first: {absent[0]}); "
            f"remove those entries or prepare the dataset again"
        )
    values = vectors(pairs, where) if is_vector(next(iter(pairs.values()))) else classes(pairs, names, where)
    full = np.full((len(images), *values.shape[1:]), -1 if values.ndim == 1 else np.nan, dtype=values.dtype)
    full[[position[name] for name in pairs]] = values
    return Labels(full, names)


def plain_name(name: str) -> str:
    """Return the name of an image in a `dataset.json` as it is in the list of files."""
    return name.replace("\\", "/").removeprefix("./")


def _pairs(labels: object, where: str) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for entry in labels if isinstance(labels, list) else [labels]:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise UserError(f"{where}: labels must be a list of [name, label], not {_short(entry)}")
        name = plain_name(entry[0])
        if name in pairs and pairs[name] != entry[1]:
            raise UserError(f"{where} labels {name} twice, as {_short(pairs[name])} and {_short(entry[1])}; keep one")
        pairs[name] = entry[1]
    pairs = {name: label for name, label in pairs.items() if label is not None}
    if not pairs:
        raise UserError(f'{where} has only empty labels; write "labels": null')
    return pairs


def class_names(names: object, where: str) -> list[str] | None:
    """Return the names of the classes in a `dataset.json`. Raises UserError if they are no list of texts."""
    if names is None:
        return None
    if not (isinstance(names, list) and 0 < len(names) <= MAX_CLASSES and all(isinstance(name, str) for name in names)):
        raise UserError(f"{where}: class_names must be a list of strings")
    return names


def is_vector(label: object) -> bool:
    """Return whether a label is a vector, not a class number."""
    # A single float is a vector of width 1, and never truncated to a class number.
    return isinstance(label, (list, float))


def classes(pairs: dict[str, object], names: list[str] | None, where: str) -> np.ndarray:
    """Return class numbers int64 [N] by name. Raises UserError for other labels, and numbers out of range."""
    end = len(names) if names else MAX_CLASSES
    for name, label in pairs.items():
        if isinstance(label, bool) or not isinstance(label, int):
            raise UserError(
                f"{where}: the label of {name} is {_short(label)}, but others are class numbers; use one kind"
            )
        if not 0 <= label < end:
            why = f"{len(names)} class names" if names else "class numbers counted from 0"
            raise UserError(f"{where}: label {label} of {name} is out of range for {why}; correct it")
    return np.array(list(pairs.values()), dtype=np.int64)


def vectors(pairs: dict[str, object], where: str) -> np.ndarray:
    """Return vector labels float32 [N, D] by name. Raises UserError unless all are finite and of one width."""
    rows = {name: label if isinstance(label, list) else [label] for name, label in pairs.items()}
    width = len(next(iter(rows.values())))
    for name, row in rows.items():
        if not row or len(row) != width:
            raise UserError(f"{where}: the label of {name} has {len(row)} numbers, others have {width}; use one width")
        if not all(_is_number(x) for x in row):
            raise UserError(f"{where}: the label of {name} is {_short(row)}, not finite numbers; correct it")
    return np.array(list(rows.values()), dtype=np.float32)


def _is_number(value: object) -> bool:
    """Return whether a value is a finite number that float32 can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= FLOAT32_MAX


def _short(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, (list, dict)) or len(value) < 100 else str(type(value).__name__)
    return text if len(text) <= 40 else text[:37] + "..."
