"""Low-resolution images for models that enlarge them: from a folder or zip, or from the dataset."""

import hashlib
import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import PurePosixPath

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.data.base import Dataset
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.encoders.base import Encoder
from elucid.training.sampling.cpu_blocks import Samples
from elucid.training.sampling.output.forms import read_note
from elucid.training.transforms.lowres import shrink
from elucid.training.types import NetSpec

Items = Sequence[tuple[int, int | None]]
"""Seeds and their classes, None if the class is to be drawn."""


class LowResImages(ABC):
    """Base class: the low-resolution image of each seed, u8 [B,C,h,w], and its class if it is known.

    `label_dim` is the number of classes of the model that generates the images; 0 if there is none.
    """

    label_dim: int = 0

    @abstractmethod
    def __call__(self, items: Items) -> Samples:
        """Return the images of the seeds; `labels` [B] are their classes, -1 if unknown, or None."""

    def require(self, seeds: Sequence[int]) -> None:  # noqa: B027 - most have an image for any seed
        """Raise UserError if a seed has no image."""


class FromFolder(LowResImages):
    """Images of a folder or zip: image 000007.png for seed 7 if all names are numbers, else the seventh from 0 on.

    Numbers may follow a prefix, as in img00000007.png. A single image serves all seeds. Classes are those noted by
    generate.py in the images, or else the labels of the folder, matched by name where both have names. Raises UserError
    for images that do not have the size and channels of `spec` / `factor`, and for a seed without an image.
    """

    def __init__(self, path: str | os.PathLike, spec: NetSpec, factor: int, class_names: Sequence[str] | None = None):
        self.path, self.spec = os.fspath(path), spec
        self.dataset = open_dataset(path, arrays=True)
        self._require_fitting(factor)
        self._index = self._numbered()
        self._class_of = self._matched(class_names or ())

    @property
    def digest(self) -> str:
        """A hash of names and contents."""
        content = hashlib.sha256()
        for index in range(len(self.dataset)):
            content.update(f"{self.dataset.image_name(index)}\n".encode())
            content.update(self.dataset.encoded(index))
        return content.hexdigest()

    def require(self, seeds: Sequence[int]) -> None:
        missing = next((seed for seed in seeds if self._position(seed) is None), None)
        if missing is not None:
            known = sorted(self._index) if self._index else [0, len(self.dataset) - 1]
            raise UserError(
                f"`lowres_from`={self.path} has {len(self.dataset)} images, of seeds {known[0]} to {known[-1]}, and "
                f"none for seed {missing}; choose other `seeds`, or give one image for all of them"
            )

    def __call__(self, items: Items) -> Samples:
        seeds = [seed for seed, _ in items]
        self.require(seeds)
        positions = [self._position(seed) for seed in seeds]
        images = torch.stack([torch.from_numpy(self.dataset.image(position)) for position in positions])
        labels = torch.tensor([self._class(position) for position in positions]) if self.spec.label_dim else None
        return Samples(seeds, images, labels)

    def _position(self, seed: int) -> int | None:
        if len(self.dataset) == 1:
            return 0
        if self._index is not None:
            return self._index.get(seed)
        return seed if 0 <= seed < len(self.dataset) else None

    def _numbered(self) -> dict[int, int] | None:
        """Return the position of the image with each number; None if names are not different numbers."""
        stems = [PurePosixPath(self.dataset.image_name(index)).stem for index in range(len(self.dataset))]
        found = [re.fullmatch(r"(?:img)?(\d+)", stem) for stem in stems]
        index = {int(match[1]): position for position, match in enumerate(found) if match}
        return index if len(index) == len(self.dataset) else None

    def _class(self, position: int) -> int:
        note = read_note(io.BytesIO(self.dataset.encoded(position)))
        if note is not None and isinstance(note["class"], int):
            return note["class"] if 0 <= note["class"] < self.spec.label_dim else -1
        labels = self.dataset.labels
        return -1 if labels is None or not labels.are_classes else self._class_of.get(int(labels.values[position]), -1)

    def _matched(self, class_names: Sequence[str]) -> dict[int, int]:
        """Return the model's class for each class of the folder; those it does not have are left out."""
        theirs = self.dataset.class_names
        if theirs and class_names:
            return {theirs.index(name): number for number, name in enumerate(class_names) if name in theirs}
        return {number: number for number in range(self.spec.label_dim)}

    def _require_fitting(self, factor: int) -> None:
        if not isinstance(self.dataset, ImageDataset):
            raise UserError(f"`lowres_from`={self.path} is one file; give a folder or zip, as dataset_tool.py makes")
        if (self.dataset.arrays is not None) != self.spec.arrays:
            theirs, ours = ("pictures", "arrays") if self.spec.arrays else ("arrays", "pictures")
            raise UserError(f"`lowres_from`={self.path} has {theirs}, but the model enlarges {ours}; convert them")
        (height, width), (small, narrow) = self.spec.resolution, self.dataset.resolution
        if (small * factor, narrow * factor) != (height, width):
            wanted = f"{width // factor}x{height // factor}"
            raise UserError(
                f"`lowres_from`={self.path} has images of {narrow}x{small}, but the model enlarges {wanted} to "
                f"{width}x{height}; give images of {wanted}"
            )
        if self.dataset.channels != self.spec.image_channels:
            kinds = {1: "gray", 3: "RGB"}
            ours, theirs = (kinds.get(n, f"{n} channels") for n in (self.spec.image_channels, self.dataset.channels))
            raise UserError(
                f"`lowres_from`={self.path} has {theirs} images, but the model takes {ours}; convert them with "
                f"dataset_tool.py --channels={ours.lower()}"
            )


class FromDataset(LowResImages):
    """The first images of a dataset, made smaller; seed s gets image s, and the class of that image."""

    def __init__(self, dataset: Dataset, encoder: Encoder, factor: int, device: torch.device | str = "cpu"):
        self.dataset, self.encoder, self.factor, self.device = dataset, encoder, factor, device

    def __call__(self, items: Items) -> Samples:
        seeds = [seed for seed, _ in items]
        positions = [seed % len(self.dataset) for seed in seeds]
        raw = torch.stack([torch.from_numpy(self.dataset.image(position)) for position in positions])
        small = shrink(self.encoder.encode(raw.to(self.device)), self.factor)
        images: Tensor = self.encoder.decode(small)[:, : raw.shape[1]]
        if not self.dataset.label_dim:
            return Samples(seeds, images, None)
        labels = [int(self.dataset.label(position).argmax()) for position in positions]
        return Samples(seeds, images, torch.tensor(labels))
