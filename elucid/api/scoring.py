"""Evaluates images: Fréchet distance (FID), reference statistics, and class agreement by an SVC."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.dnnlib.plugins import installed
from elucid.metrics.detectors import Detector, make_detector
from elucid.metrics.frechet import frechet_distance
from elucid.metrics.images import feature_statistics, read_batches
from elucid.metrics.names import DETECTORS
from elucid.metrics.reference import Reference, load_reference, require_same_detector, save_reference
from elucid.metrics.svc import PixelClassifier, interval
from elucid.torch_utils import distributed
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.sampling.folder import read_note
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.pipeline import load_pipeline

DEFAULT_NUM = 50000


@dataclass(frozen=True, repr=False)
class Score:
    """A Fréchet distance and how it was computed: `about` has detector, reference, images and sampling."""

    name: str
    value: float
    num_images: int
    ref_images: int | None  # None for EDM's reference files, which do not store it
    about: dict[str, Any]

    def __repr__(self) -> str:
        ref = f"{self.ref_images or 'unknown many'} of {self.about.get('ref')}"
        return f"<elucid.Score {self.name}: {self.value:.6g}, {self.num_images} images against {ref}>"

    def as_dict(self) -> dict[str, Any]:
        own = {"name": self.name, "value": self.value, "num_images": self.num_images, "ref_images": self.ref_images}
        return {**own, **self.about}


@dataclass
class Source:
    """Batches u8[B,C,H,W] of this process, the number of images over all processes, and a description."""

    batches: Iterator[Tensor]
    num: int
    about: dict


def score(
    images: str | os.PathLike | Tensor | Source,
    ref: str | os.PathLike,
    *,
    num: int | None = None,
    seed: int = 0,
    detector: str | None = None,
    detector_weights: str | None = None,
    batch: int = 64,
    workers: int | None = None,
    device: str | None = None,
) -> Score:
    """Compute the Fréchet distance (Heusel et al. 2017) of images to a reference in the features of a detector.

    `images`: a folder or zip, u8[N,C,H,W], or a `Source`. `ref`: a file written by `reference` or by EDM's scripts. If
    there are more than `num` images, a subset determined by `seed` is used. `detector` defaults to the reference's.
    Raises UserError if detector and reference do not match or there are fewer images.
    """
    place = distributed.choose_device(device)
    distributed.init(place)
    ref = os.fspath(ref)
    images = os.fspath(images) if isinstance(images, os.PathLike) else images
    reference = load_reference(ref)
    source = images if isinstance(images, Source) else open_source(images, num, seed, batch, workers)
    network = make_detector(detector or own_detector(reference), place, detector_weights)
    require_same_detector(reference, network)
    warn_of_few(source.num, network.dim)
    statistics = feature_statistics(network, source.batches, source.num)
    distance = frechet_distance(statistics.mean, statistics.covariance, reference.mean, reference.covariance)
    count = f"{source.num // 1000}k" if source.num % 1000 == 0 else f"{source.num}"
    about = {**source.about, **described(network), "ref": ref}
    return Score(f"fid{count}_{network.name}", distance, source.num, reference.num_images, about)


def described(detector: Detector) -> dict[str, str]:
    return {"detector": detector.name, "detector_sha256": detector.sha256, "resize": detector.resize}


def reference(
    data: str | os.PathLike,
    dest: str | os.PathLike,
    *,
    detector: str = "inception",
    detector_weights: str | None = None,
    batch: int = 64,
    workers: int | None = None,
    device: str | None = None,
) -> str:
    """Write reference statistics of a dataset to `dest` (.npz); returns a line that describes them."""
    data, dest = os.fspath(data), os.fspath(dest)
    if not dest.endswith(".npz"):
        raise UserError(f"`dest`={dest} must end in .npz")
    if distributed.is_main():
        require_writable(dest)
    place = distributed.choose_device(device)
    distributed.init(place)
    dataset = open_dataset(data)
    network = make_detector(detector, place, detector_weights)
    warn_of_few(len(dataset), network.dim)
    statistics = feature_statistics(network, read_batches(dataset, batch, workers), len(dataset))
    if distributed.is_main():
        save_reference(dest, statistics, network)
    return f"{dest}: {network.name} features of {statistics.num} images of {data}"


def class_agreement(
    data: str | os.PathLike, images: str | os.PathLike, test: str | os.PathLike | None = None
) -> dict[str, Any]:
    """Return the percentage of samples that a support vector classifier of pixels assigns to their class, as `value`.

    It is trained on at most 5000 real images of `data`, which suits digits but not photographs, and tried on those of
    `test`. All are folders or zips with labels: `images` from `generate` with `labels`. Raises UserError for an image
    without one.
    """
    data, images, test = os.fspath(data), os.fspath(images), None if test is None else os.fspath(test)
    real = labelled(data)
    judged = {path: labelled(path) for path in (test, images) if path is not None}
    judge = PixelClassifier(*real)
    print(f"classifier trained on {judge.num_train} images of {data}")
    result: dict[str, Any] = {"name": "svc_agreement", "data": str(data), "train_images": judge.num_train}
    if test is not None:
        result |= {"test": judge_by(judge, test, *judged[test]), "test_images": len(judged[test][0])}
    return result | {"value": judge_by(judge, images, *judged[images]), "num_images": len(judged[images][0])}


def open_source(images: str | Tensor, num: int | None, seed: int, batch: int, workers: int | None) -> Source:
    """Open the images of a folder, a zip or a tensor."""
    if isinstance(images, Tensor):
        if num is not None and num != len(images):
            raise UserError(f"`num`={num}, but there are {len(images)} images; leave `num` out")
        return Source(iter(images.split(batch)), len(images), {"images": "tensor"})
    num = num or DEFAULT_NUM
    dataset = open_exactly(images, num, seed)
    return Source(read_batches(dataset, batch, workers), num, {"images": images, "seed": seed})


def sampled(network: str, seeds: Sequence[int], options: SampleOptions, device: torch.device, batch: int) -> Source:
    """Sample images from a snapshot, one for each seed."""
    seeds = list(dict.fromkeys(seeds))
    pipeline = load_pipeline(network, options, device)
    share = min(batch, -(-len(seeds) // distributed.world_size()))
    mine = [seed for part in distributed.rank_share(seeds, share) for seed in part]
    samples = pipeline.generate(mine, batch)
    sampling = {**pipeline.description, "network_sha256": pipeline.description["network"]}
    about = {"seeds": spans(seeds), "sampling": {**sampling, "network": network}}
    return Source((part.images for part in samples), len(seeds), about)


def own_detector(reference: Reference) -> str:
    """Return the name of the reference's detector. A reference file may not name external code."""
    if reference.detector not in {*DETECTORS, *installed("detector")}:
        raise UserError(
            f"{reference.path} was made with {reference.detector}, which is external code; "
            "if you trust it, name it: `detector`=file.py:Name"
        )
    return reference.detector


def spans(numbers: list[int]) -> str:
    """Format numbers as ranges: [0, 1, 2, 7] -> `0-2,7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def open_exactly(path: str, num: int, seed: int) -> ImageDataset:
    """Open `num` images of a folder or zip: all, or a subset determined by the seed; UserError if there are fewer."""
    dataset = open_dataset(path, max_size=num, seed=seed)
    found = dataset.num_images
    if found < num:
        raise UserError(f"{path} has {found} images, fewer than `num`={num}; generate more, or give `num`={found}")
    if found > num:
        warn(
            f"{path} has {found} images, more than the {num} requested; scoring a random {num} (seed {seed})."
            " Remove files of an earlier run first, if there are any"
        )
    elif dataset.labels is not None and len(dataset.labels.missing):
        stray = [dataset.image_name(index) for index in dataset.labels.missing]
        warn(f"{len(stray)} images of {path} have no label (first: {stray[0]}); are they from an earlier run?")
    if distributed.is_main() and len(runs := runs_of(dataset)) > 1:
        warn(f"{path} contains samples of {len(runs)} different runs ({', '.join(map(str, runs.values()))} images)")
    return dataset


def runs_of(dataset: ImageDataset) -> dict[str | None, int]:
    """Count images by the options that generated them, which generate.py stores in its samples."""
    counts: dict[str | None, int] = {}
    for index in range(len(dataset)):
        note = read_note(io.BytesIO(dataset.encoded(index)))
        if note is None and index == 0:
            break  # not a folder of samples, so avoid reading all of it twice
        made_by = (note or {}).get("by")
        counts[made_by] = counts.get(made_by, 0) + 1
    return counts


def labelled(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return all images u8[N,C,H,W] and class numbers [N] of a dataset; UserError if an image has no label."""
    dataset = open_dataset(path)
    labels = dataset.labels
    if labels is None or not labels.are_classes:
        raise UserError(f"{path} has no class labels; generate samples with generate.py --labels")
    missing = labels.missing
    if len(missing):
        stray = dataset.image_name(missing[0])
        raise UserError(f"{path}: {len(missing)} images have no label (first: {stray}); remove files of an earlier run")
    images = np.concatenate([batch.numpy() for batch in read_batches(dataset, 256)])
    return images, labels.values


def judge_by(judge: PixelClassifier, path: str, images: np.ndarray, labels: np.ndarray) -> float:
    """Print and return the percentage of images that the classifier assigns to their class."""
    share = judge.agreement(images, labels)
    low, high = interval(share, len(images))
    print(f"{100 * share:.2f} % of {len(images)} images of {path} (95 % interval {100 * low:.1f} to {100 * high:.1f})")
    return 100 * share


def warn_of_few(num: int, dim: int) -> None:
    if num <= dim:
        warn(f"{num} images are too few for {dim} dimensions; compare only with distances of as many images")


def warn(text: str) -> None:
    distributed.print0(f"warning: {text}", file=sys.stderr)
