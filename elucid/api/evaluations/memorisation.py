"""Whether samples are copies of training images."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elucid.api.evaluator import described
from elucid.api.references import crop
from elucid.api.sources import Source, of_dataset, of_pipeline, open_exactly, own_places
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.evaluation.memorisation.measures import Landscape, Measures, cells_for, control
from elucid.evaluation.memorisation.pixels import Pixels
from elucid.evaluation.memorisation.planted import ALTERATIONS, altered, choose
from elucid.evaluation.memorisation.sheet import Row, save_sheet
from elucid.evaluation.memorisation.summary import Findings, summarise
from elucid.evaluation.results import Picture, Result
from elucid.metrics.detectors import Detector, make_detector
from elucid.metrics.measures.collect import Wanted, collect, on_main
from elucid.torch_utils import distributed
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.sampling.generate import seed_list
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.pipeline import SamplingPipeline, load_pipeline

FEWEST = 20
"""Images that each of the three sets must have."""


def memorisation(
    train: str | os.PathLike,
    test: str | os.PathLike,
    images: str | os.PathLike | None = None,
    *,
    network: str | os.PathLike | None = None,
    seeds: Iterable[int] | None = None,
    options: SampleOptions | None = None,
    detector: str = "efflite0",
    detector_weights: str | os.PathLike | None = None,
    num: int | None = None,
    seed: int = 0,
    cells: int | None = None,
    neighbours: int = 4,
    rows: int = 24,
    dest: str | os.PathLike | None = None,
    batch: int = 64,
    workers: int | None = None,
    device: str | None = None,
) -> Result:
    """Test samples for copies of training images, against held-out real images as what is normal.

    `train` and `test` are folders or zips of real images, the samples `images` or those of `seeds` of a `network`.
    Measures in the features of a `detector` ("pixels" for small simple images): the share of samples nearer to a
    training image than 5 % and 1 % of the held-out images, the probability that a sample is nearer than a held-out
    image, C_T (Meehan et al. 2020) with so many `cells`, AuthPct (Alaa et al. 2022); and all of them again with copies
    of training images planted at 1, 5 and 20 %. If `dest` (.json) is given, the result is saved there, and beside it as
    PNG the `rows` most suspicious samples with their nearest `neighbours`. Under torchrun all processes must call it.
    Raises UserError for sets that do not fit together or are too small.
    """
    place = distributed.choose_device(device)
    distributed.init(place)
    dest = None if dest is None else require_destination(dest)
    real = {"train": open_dataset(train), "test": open_dataset(test)}
    if neighbours < 1 or neighbours >= len(real["train"]):
        raise UserError(f"`neighbours`={neighbours} must be from 1 to the {len(real['train'])} training images less 1")
    if images is not None and network is None:
        samples = Samples.of_files(os.fspath(images), num, seed, batch, workers)
    elif network is not None and images is None and seeds is not None:
        pipeline = load_pipeline(os.fspath(network), options or SampleOptions(), place)
        samples = Samples.of_seeds(pipeline, os.fspath(network), seed_list(seeds), batch)
    else:
        raise UserError("give the samples as `images`, or a `network` and its `seeds`; one of them")
    require_alike(samples, real)
    shape = (real["train"].channels, *real["train"].resolution)
    network_of_features = (
        Pixels(shape, place) if detector == "pixels" else make_detector(detector, place, detector_weights)
    )
    places, copied = choose(samples.source.num, len(real["train"]), seed)
    sources = {"samples": samples.source}
    sources |= {name: of_dataset(dataset, batch, workers, {}) for name, dataset in real.items()}
    sources |= {kind: copies_of(real["train"], copied, kind, seed, batch) for kind in ALTERATIONS}
    found, hashes = {}, {}
    for name, source in sources.items():
        found[name], hashes[name] = collected(network_of_features, source)
    result, suspects = on_main(
        lambda: measured(found, places, copied, place, cells, seed, neighbours, rows, network_of_features.name)
    )
    about = {
        **samples.source.about,
        **described(network_of_features),
        **asdict(replace(samples.source.provenance, crop=crop(network_of_features), data_sha256=hashes["samples"])),
        **{"train": os.fspath(train), "train_sha256": hashes["train"]},
        **{"test": os.fspath(test), "test_sha256": hashes["test"], "plant_seed": seed},
    }
    result = replace(result, about={**result.about, **about})
    if dest is not None:
        shown = samples.images([suspect.sample for suspect in suspects])
        if distributed.is_main():
            names = [Path(samples.source.names[suspect.sample]).stem for suspect in suspects]
            result = saved(result, dest, suspects, list(zip(names, shown, strict=True)), real["train"])
        distributed.barrier()
    return result


@dataclass
class Samples:
    """The samples as a source of batches, and how to get single ones again."""

    source: Source
    shape: tuple[int, int, int]
    dataset: ImageDataset | None = None
    pipeline: SamplingPipeline | None = None
    seeds: Sequence[int] = ()

    @classmethod
    def of_files(cls, path: str, num: int | None, seed: int, batch: int, workers: int | None) -> "Samples":
        dataset = open_dataset(path) if num is None else open_exactly(path, num, seed)
        source = of_dataset(dataset, batch, workers, {"images": path, "seed": seed})
        return cls(source, (dataset.channels, *dataset.resolution), dataset)

    @classmethod
    def of_seeds(cls, pipeline: SamplingPipeline, network: str, seeds: list[int], batch: int) -> "Samples":
        seeds = list(dict.fromkeys(seeds))
        return cls(of_pipeline(pipeline, network, seeds, batch), pipeline.image_shape, None, pipeline, seeds)

    def images(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Return samples u8[C,H,W] on the main process; samples of a network are generated again."""
        if not distributed.is_main():
            return []
        if self.dataset is not None:
            return [self.dataset.image(index) for index in indices]
        assert self.pipeline is not None
        classes = self.pipeline.classes_of(self.seeds)
        chosen = [classes[index] for index in indices] if isinstance(classes, list) else None
        with closing(self.pipeline.generate([self.seeds[index] for index in indices], 64, chosen)) as parts:
            return [image for part in parts for image in part.images.cpu().numpy()]


def require_destination(dest: str | os.PathLike) -> str:
    """Return the path of the result. Raises UserError if it or the picture beside it cannot be written."""
    dest = os.fspath(dest)
    if not dest.endswith(".json"):
        raise UserError(f"`dest`={dest} must end in .json; the picture is written beside it")
    if distributed.is_main():
        for path in (dest, Path(dest).with_suffix(".png")):
            require_writable(path)
    return dest


def require_alike(samples: Samples, real: dict[str, ImageDataset]) -> None:
    """Raise UserError if the three sets differ in size or channels, or one has too few images."""
    shapes = {name: (one.channels, *one.resolution) for name, one in real.items()} | {"samples": samples.shape}
    counts = {name: len(one) for name, one in real.items()} | {"samples": samples.source.num}
    for name, shape in shapes.items():
        if shape != shapes["train"]:
            given, wanted = (f"{w}x{h} with {c} channels" for c, h, w in (shape, shapes["train"]))
            raise UserError(f"the {name} images are {given}, the training images {wanted}; prepare them alike")
        if counts[name] < FEWEST:
            raise UserError(f"{counts[name]} {name} images are too few; give at least {FEWEST}, better thousands")


def collected(detector: Detector, source: Source) -> tuple[Tensor, str]:
    """Return the features f32[N,D] of all images of a source on the main process, and the hash of their pixels."""
    wanted = Wanted(frozenset(), frozenset({"features"}))
    (found,) = collect([detector], [wanted], source.batches, source.order, source.num)
    return found.rows["features"], found.sha256


def copies_of(train: ImageDataset, copied: np.ndarray, kind: str, seed: int, batch: int) -> Source:
    """Return altered copies of training images."""

    def batches() -> Iterator[Tensor]:
        for share in distributed.rank_share(copied.tolist(), batch):
            images = [altered(train.image(index), kind, seed, index) for index in share]
            yield torch.from_numpy(np.stack(images))

    return Source(batches(), len(copied), {}, own_places(len(copied), batch))


@dataclass(frozen=True)
class Suspect:
    """A sample, its nearest training images with their distances, and its ratio (`Around.ratios`)."""

    sample: int
    ratio: float
    nearest: list[int]
    distances: list[float]


def measured(
    found: dict[str, Tensor],
    places: np.ndarray,
    copied: np.ndarray,
    device: torch.device,
    cells: int | None,
    seed: int,
    neighbours: int,
    rows: int,
    detector: str,
) -> tuple[Result, list[Suspect]]:
    """Compute everything from the features; on the main process."""
    device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    require_different(found["train"])
    cells = cells_for(len(found["samples"]), len(found["test"])) if cells is None else cells
    if cells > len(found["train"]):
        raise UserError(f"`cells`={cells} exceeds the {len(found['train'])} training images; give fewer")
    land = Landscape(found["train"].to(device), cells, seed)
    near = land.nearest(found["samples"], neighbours, "nearest training images of samples")
    samples, held_out = land.around(found["samples"], near), land.around(found["test"])
    copies = {"exact": land.around(found["train"][copied])}
    copies |= {kind: land.around(found[kind]) for kind in ALTERATIONS}
    findings = Findings(
        samples=samples,
        held_out=held_out,
        measures=Measures.of(samples, held_out, cells),
        planted=tuple(control(samples, held_out, copies, places, cells)),
        cells=cells,
        num_train=len(found["train"]),
    )
    order = np.argsort(samples.ratios, kind="stable")[:rows].tolist()
    suspects = [
        Suspect(index, float(samples.ratios[index]), near.indices[index].tolist(), near.distances[index].tolist())
        for index in order
    ]
    return summarise(findings, detector), suspects


def require_different(train: Tensor) -> None:
    """Raise UserError if all training images have the same features."""
    if not (train != train[0]).any():
        raise UserError(f"all {len(train)} training images have the same features, so no distance means anything")


def saved(
    result: Result, dest: str, suspects: list[Suspect], shown: list[tuple[str, np.ndarray]], train: ImageDataset
) -> Result:
    """Write the picture of the samples, given with their names, and then the result; return it."""
    picture = Path(dest).with_suffix(".png")
    sheet = [
        Row(
            image,
            f"{name}: {suspect.ratio:.2f}",
            [train.image(index) for index in suspect.nearest],
            [f"{distance:.3g}" for distance in suspect.distances],
        )
        for suspect, (name, image) in zip(suspects, shown, strict=True)
    ]
    legend = "sample: ratio, below 1 if nearer than another training image is | nearest training images: distance"
    save_sheet(picture, sheet, f"{legend} ({result.about['detector']})")
    title = "The most suspicious samples, each beside its nearest training images"
    result = replace(result, pictures=(Picture(title, picture.name),))
    result.save(dest)
    return result
