"""What every data set is: images by position, with labels."""

from abc import ABC, abstractmethod

import numpy as np


class Dataset(ABC):
    """What training reads: `len`, images [C,H,W] as an encoder takes them, labels, and facts about all of them.

    A reader of your own is a subclass whose constructor takes `path` and may take `use_labels`, `max_size` and `seed`;
    it is read by several threads at once. `--set dataset.reader=mine.py:Reader` uses it.
    """

    path: str
    name: str
    resolution: tuple[int, int]  # height, width
    channels: int
    label_dim: int = 0  # classes, or width of vector labels; 0 when labels are not used
    has_labels: bool = False  # whether the source has any, used or not
    class_names: list[str] | None = None
    encoder: dict | None = None  # with what stored latents were made

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """[C,H,W], of one type and shape for all."""

    def label(self, index: int) -> np.ndarray:
        """float32 [label_dim], one-hot for classes; empty when labels are not used."""
        return np.zeros(0, dtype=np.float32)
