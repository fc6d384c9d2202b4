"""A dataset of maps that belong to the images of another one: pictures or arrays, the condition of each image."""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.training.data.base import Dataset


class Maps:
    """The map of each image of a dataset, found by its name, or in order where one of the two has no names.

    A map has the name of its image, whatever the suffix: `00000/img00000007.npy` for `00000/img00000007.png`. Raises
    UserError for images without a map, and in order for another number of maps.
    """

    def __init__(self, dataset: Dataset, images: Dataset):
        self.dataset = dataset
        self.positions = _positions(dataset, images)
        self.array = getattr(dataset, "array", None)

    def of(self, dataset: Dataset) -> "Maps":
        """Return the maps read from another object of the same dataset, as from its cache."""
        other = copy.copy(self)
        other.dataset, other.array = dataset, getattr(dataset, "array", None)
        return other

    @property
    def arrays(self) -> dict | None:
        return self.dataset.arrays

    def image_name(self, index: int) -> str:
        """Return the name of the map of an image."""
        place = index if self.positions is None else int(self.positions[index])
        name = getattr(self.dataset, "image_name", str)
        return name(place)

    @property
    def path(self) -> str:
        return self.dataset.path

    def read(self, indices: np.ndarray, workers: ThreadPoolExecutor | None = None) -> np.ndarray:
        """Return the maps [len(indices),c,h,w] of images by their positions."""
        places = indices if self.positions is None else self.positions[indices]
        read = getattr(self.dataset, "read", None)
        if read is not None:
            return read(places)
        mapped = map(self.dataset.image, places.tolist())
        return np.stack(list(mapped if workers is None else workers.map(self.dataset.image, places.tolist())))


def names_of(dataset: Dataset) -> list[str] | None:
    """Return the names of images without their suffix; None if they have none."""
    name = getattr(dataset, "image_name", None)
    if name is None or not getattr(dataset, "has_names", True):
        return None
    return [str(PurePosixPath(name(index)).with_suffix("")) for index in range(len(dataset))]


def _positions(dataset: Dataset, images: Dataset) -> np.ndarray | None:
    """Return the position of the map of each image; None if it is the image's own."""
    theirs, ours = names_of(dataset), names_of(images)
    if theirs is None or ours is None:
        if len(dataset) != len(images):
            raise UserError(
                f"`cond_images`={dataset.path} has {len(dataset)} maps, but {images.path} has {len(images)} images; "
                "without names they belong together in order, so give as many"
            )
        return None
    place = {name: index for index, name in enumerate(theirs)}
    found = [place.get(name, -1) for name in ours]
    missing = [name for name, index in zip(ours, found, strict=True) if index < 0]
    if missing:
        raise UserError(
            f"`cond_images`={dataset.path} has no map for {len(missing)} of {len(images)} images (first: "
            f"{images.path}/{missing[0]}); give one for each, of the same name"
        )
    return None if found == list(range(len(theirs))) else np.array(found, dtype=np.int64)


def require_size(maps: Sequence[int], images: Sequence[int], path: str, enlarge: bool) -> None:
    """Raise UserError for maps of another (height, width) than the images, unless they are to be interpolated."""
    if tuple(maps) != tuple(images) and not enlarge:
        ours, theirs = (f"{width}x{height}" for height, width in (images, maps))
        raise UserError(
            f"`cond_images`={path} has maps of {theirs}, but the images are {ours}; make them the same, or interpolate "
            "them with `cond_enlarge`=1"
        )
