"""Base class of datasets: images by position, with labels."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np


class Dataset(ABC):
    """Base class of datasets: images [C,H,W] as an encoder takes them, labels, and properties of the whole dataset.

    To add a reader, write a subclass whose constructor takes `path` and optionally `use_labels`, `max_size` and `seed`.
    Several threads read from it at once. Select it with `--set dataset.reader=mine.py:Reader`.
    """

    path: str
    name: str
    resolution: tuple[int, int]  # height, width
    channels: int
    label_dim: int = 0  # classes, or width of vector labels; 0 if labels are not used
    has_labels: bool = False  # whether the source has labels, used or not
    class_names: list[str] | None = None
    class_counts: list[int] | None = None  # images of each class, if labels are used and are classes
    vector_labels: bool = False  # whether labels are vectors, not classes
    encoder: dict | None = None  # encoder of stored latents
    arrays: dict | None = None  # of arrays other than pictures, what is known of their encoder (`arrays.form`)

    maps: Any = None  # those given beside the images as a condition, a `conditions.maps.Maps`

    @property
    def kind(self) -> str:
        """What it holds, in the plural: images, latents or arrays."""
        return "arrays" if self.arrays is not None else "images" if self.encoder is None else "latents"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """Return an image [C,H,W]; all have the same dtype and shape."""

    def label(self, index: int) -> np.ndarray:
        """Return a label, float32 [label_dim], one-hot for classes; empty if labels are not used."""
        return np.zeros(0, dtype=np.float32)
