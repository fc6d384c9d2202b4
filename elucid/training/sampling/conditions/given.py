"""Conditions given for sampling: a map or a vector of labels for each seed, or for each group of seeds."""

import hashlib
import os
from collections.abc import Sequence, Sized

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.data.base import Dataset
from elucid.training.inverse.operators.files import read_array
from elucid.training.transforms.maps import ConditionMaps, maps_among
from elucid.training.types import MAPS, Cond, NetSpec

MANY = 1000
"""Maps above whose number samples depend on path, size and time of their file, not on each map."""


class GivenConditions:
    """Condition number s // `members` for seed s, so that a condition has so many samples; a single one serves all.

    `maps` are of any size that `transform` makes the network's, `labels` are f32[N,D]. Raises UserError for seeds that
    have no condition.
    """

    def __init__(
        self,
        maps: Dataset | None = None,
        transform: ConditionMaps | None = None,
        labels: np.ndarray | None = None,
        measurements: Tensor | None = None,
        members: int = 1,
    ):
        if members < 1:
            raise UserError(f"`members`={members} must be at least 1, the samples of each condition")
        self.maps, self.transform, self.labels, self.members = maps, transform, labels, members
        self.measurements = measurements
        counts = {name: len(one) for name, one in self.parts.items() if len(one) > 1}
        if len(set(counts.values())) > 1:
            (one, first), (other, second), *_ = counts.items()
            raise UserError(f"`{one}` has {first} conditions and `{other}` {second}; give as many of both, or one")

    @property
    def parts(self) -> dict[str, Sized]:
        """What is given, by the names of the options."""
        every = {"cond_images": self.maps, "cond_labels": self.labels, "measurement": self.measurements}
        return {name: one for name, one in every.items() if one is not None}

    def __len__(self) -> int:
        """Number of conditions; 1 serves any number of seeds."""
        return max((len(one) for one in self.parts.values()), default=1)

    def require(self, seeds: Sequence[int]) -> None:
        """Raise UserError if a seed has no condition."""
        if not len(seeds):
            return
        last = max(seeds) // self.members
        if (len(self) > 1 and last >= len(self)) or min(seeds) < 0:
            each = f", {self.members} of each" if self.members > 1 else ""
            raise UserError(
                f"`seeds`: there are {len(self)} conditions{each}, for seeds 0 to {len(self) * self.members - 1}, and "
                f"none for seed {max(seeds)}; choose other `seeds`"
            )

    def __call__(self, seeds: Sequence[int], spec: NetSpec, device: torch.device) -> Cond:
        """Return the conditions of the seeds as the network takes them."""
        places = np.array([seed // self.members for seed in seeds])
        cond = {}
        if self.labels is not None:
            rows = self.labels[places if len(self.labels) > 1 else 0 * places]
            cond["labels"] = torch.from_numpy(rows).to(device)
        if self.maps is not None and self.transform is not None:
            chosen = places if len(self.maps) > 1 else 0 * places
            different, back = np.unique(chosen, return_inverse=True)
            raw = torch.from_numpy(np.stack([self.maps.image(int(index)) for index in different])).to(device)
            seen: Tensor = self.transform.encode(raw, spec.resolution)
            cond[MAPS] = seen[torch.from_numpy(back).to(device)]
        if self.measurements is not None:
            chosen = torch.from_numpy(places if len(self.measurements) > 1 else 0 * places)
            cond["measurement"] = self.measurements[chosen].to(device)
        return cond

    @property
    def digest(self) -> str:
        """A hash of all conditions and how they are assigned."""
        content = hashlib.sha256(f"{self.members}\n".encode())
        if self.labels is not None:
            content.update(np.ascontiguousarray(self.labels).tobytes())
        if self.measurements is not None:
            content.update(self.measurements.numpy().tobytes())
        known = getattr(self.maps, "fingerprint", None)
        if known is not None and len(self.maps) > MANY:
            content.update(known.encode())  # of path, size and time, as reading all of them would take too long
        for index in range(0 if self.maps is None or len(self.maps) > MANY else len(self.maps)):
            content.update(np.ascontiguousarray(self.maps.image(index)).tobytes())
        return content.hexdigest()


class OfDataset(GivenConditions):
    """The conditions of the first images of a dataset, for pictures while training; seed s has those of image s."""

    def __init__(self, dataset: Dataset, transform: ConditionMaps | None):
        super().__init__()
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def require(self, seeds: Sequence[int]) -> None:
        pass

    def __call__(self, seeds: Sequence[int], spec: NetSpec, device: torch.device) -> Cond:
        places = np.array([seed % len(self.dataset) for seed in seeds])
        cond = {}
        if spec.label_dim:
            cond["labels"] = torch.from_numpy(np.stack([self.dataset.label(int(place)) for place in places])).to(device)
        if self.transform is not None:
            cond[MAPS] = self.transform.read(self.dataset, places, spec.resolution, device)
        return cond


def of_run(run) -> OfDataset | None:
    """Return the conditions of a run's own images, if its model takes maps or vectors; else None."""
    transform = maps_among(run.stream.transforms)
    return OfDataset(run.dataset, transform) if transform is not None or run.dataset.vector_labels else None


def read_vectors(path: str | os.PathLike, width: int) -> np.ndarray:
    """Return label vectors f32[N,width] from a `.npy` [N,D] or [D], or the labels of a dataset. Raises UserError.

    Classes of a dataset are one-hot vectors.
    """
    from elucid.training.data.dataset import open_dataset

    if str(path).endswith(".npy"):
        rows = np.atleast_2d(read_array(path, "`cond_labels`").numpy()).astype(np.float32)
    else:
        dataset = open_dataset(path, use_labels=True, latents=True, arrays=True)
        rows = np.stack([dataset.label(index) for index in range(len(dataset))])
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise UserError(f"`cond_labels`={path} has vectors of shape {rows.shape}, but the model takes [N,{width}]")
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(bad):
        raise UserError(f"`cond_labels`={path} has numbers that are not finite in row {bad[0]}; correct them")
    return rows
