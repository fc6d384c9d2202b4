"""Opens the images to score: files, arrays, or samples of a snapshot."""

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import Detector, takes_arrays
from elucid.metrics.images import read_batches
from elucid.metrics.reference import Provenance
from elucid.torch_utils import distributed
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.output.forms import read_note
from elucid.training.sampling.pipeline import SamplingPipeline, load_pipeline

DEFAULT_NUM = 50000


@dataclass
class Source:
    """Batches u8[B,C,H,W] of this process, the number of images over all processes, and a description.

    `order` are the places of this process's images among all, and `names` the names of all; `provenance` is what is
    known of their making.
    """

    batches: Iterator[Tensor]
    num: int
    about: dict
    order: Sequence[int] = ()
    names: Sequence[str] = ()
    provenance: Provenance = field(default_factory=Provenance)


def open_source(
    images: str | Tensor,
    num: int | None,
    seed: int,
    batch: int,
    workers: int | None,
    detectors: Sequence[Detector] = (),
) -> Source:
    """Open the images of a folder, a zip or a tensor, for detectors. Raises UserError if one does not take them."""
    if isinstance(images, Tensor):
        if num is not None and num != len(images):
            raise UserError(f"`num`={num}, but there are {len(images)} images; leave `num` out")
        order = own_places(len(images), batch)
        parts = (images[start : start + batch] for start in order[::batch])
        names = [str(index) for index in range(len(images))]
        made = Provenance(file_format="none (array)", image_shape=shape_text(images.shape[1:]))
        return Source(parts, len(images), {"images": "tensor"}, order, names, made)
    dataset = open_exactly(images, num or DEFAULT_NUM, seed, arrays=True)
    require_taken(dataset, detectors)
    return of_dataset(dataset, batch, workers, {"images": images, "seed": seed})


def require_taken(dataset: ImageDataset, detectors: Sequence[Detector]) -> None:
    """Raise UserError if a data set holds arrays and a detector takes pictures."""
    for one in detectors if dataset.arrays is not None else ():
        if not takes_arrays(one):
            raise UserError(
                f"{dataset.path} holds arrays, and `detector`={one.name} takes pictures; write one with takes = "
                '"arrays", and give it as `detector`=file.py:Name'
            )


def of_dataset(
    dataset: ImageDataset, batch: int, workers: int | None, about: dict, labels: str | None = None
) -> Source:
    """Return all images of a dataset; `labels` is how they got their classes, if it is known."""
    names = [dataset.image_name(index) for index in range(len(dataset))]
    formats = sorted({name.rpartition(".")[2].lower() for name in names})
    shape = shape_text((dataset.channels, *dataset.resolution))
    provenance = Provenance(file_format="+".join(formats), label_policy=labels, image_shape=shape)
    order = own_places(len(dataset), batch)
    return Source(read_batches(dataset, batch, workers), len(dataset), about, order, names, provenance)


def own_places(num: int, batch: int) -> list[int]:
    """Return the places of this process's images among all, as `read_batches` shares them."""
    return [index for share in distributed.rank_share(range(num), batch) for index in share]


def sampled(network: str, seeds: Sequence[int], options: SampleOptions, device, batch: int) -> Source:
    """Sample images from a snapshot, one for each seed."""
    return of_pipeline(load_pipeline(network, options, device), network, seeds, batch)


def of_pipeline(pipeline: SamplingPipeline, network: str, seeds: Sequence[int], batch: int) -> Source:
    """Sample images from a loaded snapshot, one for each seed."""
    seeds = list(dict.fromkeys(seeds))
    share = min(batch, -(-len(seeds) // distributed.world_size()))
    order, classes = own_places(len(seeds), share), pipeline.classes_of(seeds)
    own = [classes[index] for index in order] if isinstance(classes, list) else None
    samples = pipeline.generate([seeds[index] for index in order], batch, own)
    sampling = {**pipeline.description, "network_sha256": pipeline.description["network"]}
    about = {"seeds": spans(seeds), "sampling": {**sampling, "network": network}}
    shape = shape_text(pipeline.image_shape)
    provenance = Provenance(file_format="none (sampled)", label_policy=label_policy(pipeline), image_shape=shape)
    names = [str(seed) for seed in seeds]
    return Source((part.images for part in samples), len(seeds), about, order, names, provenance)


def shape_text(shape: Sequence[int]) -> str:
    """Return channels, height and width as text: `3x32x32`."""
    return "x".join(map(str, shape))


def label_policy(pipeline: SamplingPipeline) -> str:
    """Say how the classes of samples were chosen."""
    if not pipeline.label_dim:
        return "none"
    if pipeline.classes is None:
        return "random by seed" if pipeline.class_policy in (None, "random") else pipeline.class_policy
    return f"all {pipeline.classes}" if isinstance(pipeline.classes, int) else "listed"


def spans(numbers: list[int]) -> str:
    """Format numbers as ranges: [0, 1, 2, 7] -> `0-2,7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def open_exactly(path: str, num: int, seed: int, arrays: bool = False) -> ImageDataset:
    """Open `num` images of a folder or zip: all, or a subset determined by the seed; UserError if there are fewer."""
    dataset = open_dataset(path, max_size=num, seed=seed, arrays=arrays)
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
    """Count images by the options that generated them, which generate.py stores in pictures."""
    counts: dict[str | None, int] = {}
    for index in range(len(dataset)) if dataset.arrays is None else ():
        note = read_note(io.BytesIO(dataset.encoded(index)))
        if note is None and index == 0:
            break  # not a folder of samples, so avoid reading all of it twice
        made_by = (note or {}).get("by")
        counts[made_by] = counts.get(made_by, 0) + 1
    return counts


def warn(text: str) -> None:
    distributed.print0(f"warning: {text}", file=sys.stderr)
