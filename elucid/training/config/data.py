"""Opens the training dataset from its options."""

import inspect
from dataclasses import replace

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.training.config.settings import DataOptions
from elucid.training.data.arrays.tables import table_at
from elucid.training.data.base import Dataset
from elucid.training.data.cache import cached
from elucid.training.data.conditions.maps import Maps, names_of, require_size
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.data.statistics import statistics
from elucid.training.data.streaming.sources import is_sharded
from elucid.training.registry.components import find, make, split
from elucid.training.types import NetSpec


def read_dataset(options: DataOptions) -> Dataset:
    """Open the dataset with the given reader, or else the one that fits the path."""
    known = {"use_labels": options.use_labels, "max_size": options.max_size, "seed": options.subset_seed}
    reader = options.reader
    if isinstance(reader, dict) and "name" not in reader and table_at(options.path):
        reader = {"name": "table", **reader}
    elif reader is None and is_sharded(options.path):
        reader = "shards"
    if reader is None:
        return open_dataset(options.path, latents=True, arrays=True, **known)
    target = find("dataset", split(reader, "dataset")[0])
    taken = inspect.signature(target).parameters
    given = {"path": options.path, **{name: value for name, value in known.items() if name in taken}}
    return make(reader, "dataset", **given)


def open_training_data(options: DataOptions):
    """Open and cache the dataset of a run, and the maps beside its images.

    One process per machine fills the cache while the others wait.
    """
    dataset = read_dataset(options)
    if dataset.has_labels and not options.use_labels:
        distributed.print0("warning: the dataset has labels, which are not used; --cond=1 uses them")
    if options.label_dropout and not dataset.label_dim:
        distributed.print0("warning: label_dropout has no effect without --cond=1")
    if options.cond_images is None:
        return cached_data(options, dataset)
    given, own = open_maps(options, dataset)
    maps = Maps(given, dataset)  # which names what is missing, before anything is cached
    dataset, given = cached_data(options, dataset), cached_data(own, given)
    dataset.maps = maps.of(given)
    return dataset


def options_beside(options: DataOptions, path: str) -> DataOptions:
    """Return the options to read another dataset like a run's own: of the reader, what is about axes goes along."""
    tells = isinstance(options.reader, dict) and "name" not in options.reader and table_at(path)
    return replace(options, path=path, reader=options.reader if tells else None)


def open_maps(options: DataOptions, dataset: Dataset) -> tuple[Dataset, DataOptions]:
    """Open the maps beside the images of a dataset, and return their options as well. Raises UserError."""
    own = replace(options_beside(options, str(options.cond_images)), use_labels=False, max_size=None)
    given = read_dataset(own)
    if given.shuffled != dataset.shuffled:
        raise UserError(
            f"`cond_images`={given.path}: either it or the images are shards in a random order; write both as shards "
            "in the same way, or with --shuffle=0"
        )
    if options.max_size is not None and None in (names_of(given), names_of(dataset)):
        raise UserError(
            "`max_size` takes a part of the images, whose maps are found by their names, and there are none; leave it "
            "out, or convert both with dataset_tool.py"
        )
    require_size(given.resolution, dataset.resolution, given.path, options.cond_enlarge)
    return given, own


def cached_data(options: DataOptions, dataset: Dataset) -> Dataset:
    """Return the dataset with its images in the cache if the options say so. Raises UserError for contradictions."""
    if dataset.encoder is not None and options.xflip:
        raise UserError(
            f"`xflip`=1: {options.path} contains latents, and a flipped latent is not the latent of the flipped image; "
            "train without it, or on images"
        )
    if options.cache == "none" or not isinstance(dataset, ImageDataset):
        distributed.wait_for_all("all have opened the dataset")
        return dataset
    first = distributed.local_rank() == 0
    if first:
        dataset = cached(dataset, None)
    distributed.wait_for_all("the cache of decoded images is filled")
    return dataset if first else cached(dataset, None, progress=False, build=False)


AUTO = "auto"
"""Value of precond.sigma_data that stands for the standard deviation of the dataset."""


def measured_sigma_data(dataset: Dataset, encoder: dict) -> float:
    """Return the standard deviation of the network's data, to two digits. Raises UserError if it is unknown."""
    if encoder["name"] != "rgb" and dataset.encoder is None and dataset.arrays is None:
        raise UserError(
            f"precond.sigma_data=auto: images are encoded with {encoder['name']} during training, so the standard "
            "deviation of the latents is unknown; store latents with dataset_tool.py encode, or give a number"
        )
    convention = getattr(make(encoder, "encoder"), "convention", None) if dataset.encoder is not None else None
    if dataset.encoder is not None and convention is None:
        raise UserError(
            f"precond.sigma_data=auto: the encoder {encoder['name']} does not say how it normalises stored latents; "
            "give a number"
        )
    convention = encoder if dataset.arrays is not None else convention
    std = statistics(dataset, encoder=convention)[1] if distributed.is_main() else None
    distributed.wait_for_all("the standard deviation of the images is measured")
    value = float(f"{distributed.broadcast_object(std):.2g}")
    distributed.print0(f"sigma_data {value} (measured)")
    return value


def dataset_spec(dataset: Dataset) -> NetSpec:
    """Return the network spec for the dataset alone; for stored latents, before `Encoder.adapt`."""
    return NetSpec(
        resolution=tuple(dataset.resolution),
        image_channels=dataset.channels,
        vector={"labels": dataset.label_dim},
        latent=dataset.encoder is not None,
        arrays=dataset.arrays is not None,
    )
