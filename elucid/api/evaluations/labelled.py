"""Images with classes in memory, and whether several sets of them fit together."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from elucid.api.sources import warn
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed
from elucid.training.data.dataset import open_dataset


@dataclass(frozen=True)
class Labelled:
    """Images u8[N,C,H,W] and class numbers i64[N], sorted by file name; `num_classes` as the file says."""

    path: str
    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    class_names: list[str] | None

    def name(self, index: int) -> str:
        """Return the name of a class, or its number."""
        return self.class_names[index] if self.class_names else str(index)


def read_labelled(path: str, num: int | None = None, seed: int = 0) -> Labelled:
    """Read all images of a folder or zip, or `num` chosen by the seed, in every process.

    Raises UserError if one has no class or if there are fewer.
    """
    dataset = open_dataset(path, max_size=num, seed=seed)
    if num is not None and dataset.num_images < num:
        raise UserError(f"{path} has {dataset.num_images} images, fewer than the {num} needed; add some or give `num`")
    labels = dataset.labels
    if labels is None or not labels.are_classes:
        raise UserError(f"{path} has no class labels; generate samples with generate.py --labels")
    missing = labels.missing
    if len(missing):
        stray = dataset.image_name(missing[0])
        raise UserError(f"{path}: {len(missing)} images have no label (first: {stray}); remove files of an earlier run")
    if len(dataset) < dataset.num_images:
        warn(f"{path}: {len(dataset)} of {dataset.num_images} images are used, chosen by seed {seed}")
    images = np.empty((len(dataset), dataset.channels, *dataset.resolution), np.uint8)
    with ThreadPoolExecutor() as pool:
        found = pool.map(dataset.image, range(len(dataset)))
        show: dict[str, Any] = {"total": len(dataset), "desc": f"reading {path}", "disable": not distributed.is_main()}
        bar: Iterable[np.ndarray] = progress_bar(found, delay=2, leave=False, **show)
        for index, image in enumerate(bar):
            images[index] = image
    return Labelled(path, images, labels.values, labels.dim, labels.class_names)


def require_fitting(first: Labelled, others: Sequence[Labelled]) -> None:
    """Raise UserError if sizes, channels or classes differ from those of the first set."""
    for other in others:
        if other.images.shape[1:] != first.images.shape[1:]:
            shapes = " but ".join(f"{one.path} {shape_text(one.images.shape[1:])}" for one in (first, other))
            raise UserError(f"images of different shapes: {shapes}; convert them with dataset_tool.py")
        if other.labels.max() >= first.num_classes:
            raise UserError(
                f"{other.path} has class {int(other.labels.max())}, but {first.path} only {first.num_classes} classes; "
                "give data with the same classes"
            )
        if first.class_names and other.class_names and first.class_names != other.class_names:
            raise UserError(f"{first.path} and {other.path} have other class names; give data with the same classes")


def require_all_classes(data: Labelled, num_classes: int) -> None:
    """Raise UserError if a class has no image."""
    absent = np.flatnonzero(np.bincount(data.labels, minlength=num_classes) == 0)
    if len(absent):
        raise UserError(
            f"{data.path} has no image of class {data.name(absent[0])} ({len(absent)} of {num_classes} classes are "
            "absent); add some"
        )


def warn_of_shared(train: Labelled, test: Labelled) -> None:
    """Warn if test images are among those to train on, which makes a classifier look better than it is."""
    known = {image.tobytes() for image in train.images}
    shared = sum(image.tobytes() in known for image in test.images)
    if shared:
        warn(f"{shared} of {len(test.labels)} images of {test.path} are in {train.path}, too: accuracies are too high")


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape C, H, W as text: `32x32 RGB`."""
    channels, height, width = shape
    return f"{width}x{height} {({1: 'gray', 3: 'RGB'}).get(channels, f'{channels} channels')}"
