"""The data set of a run, as its options say."""

import inspect

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.training.config.settings import DataOptions
from elucid.training.data.base import Dataset
from elucid.training.data.cache import cached
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.data.statistics import statistics
from elucid.training.registry.components import find, make, split
from elucid.training.types import NetSpec


def read_dataset(options: DataOptions) -> Dataset:
    """The data set, by the reader that the options name, else by what lies at the path."""
    known = {"use_labels": options.use_labels, "max_size": options.max_size, "seed": options.subset_seed}
    if options.reader is None:
        return open_dataset(options.path, latents=True, **known)
    target = find("dataset", split(options.reader, "dataset")[0])
    taken = inspect.signature(target).parameters
    given = {"path": options.path, **{name: value for name, value in known.items() if name in taken}}
    return make(options.reader, "dataset", **given)


def open_training_data(options: DataOptions):
    """The data set of a run, cached as its options say; one process per machine fills the cache, the others wait."""
    dataset = read_dataset(options)
    if dataset.encoder is not None and options.xflip:
        raise UserError(
            f"`xflip`=1: {options.path} holds latents, and mirrored latents are not those of the mirrored image; "
            "train without it, or on the images themselves"
        )
    if dataset.has_labels and not options.use_labels:
        distributed.print0("warning: the data set has labels but cond is off: they are not used")
    if options.label_dropout and not dataset.label_dim:
        distributed.print0("warning: label_dropout drops nothing, as the model is not told labels; give cond=1, too")
    if options.cache == "none" or not isinstance(dataset, ImageDataset):
        return dataset
    if distributed.local_rank() == 0:
        dataset = cached(dataset, None)
    distributed.barrier()
    return cached(dataset, None, progress=False) if distributed.local_rank() != 0 else dataset


AUTO = "auto"
"""Value of precond.sigma_data that stands for the data set's own deviation."""


def measured_sigma_data(dataset: Dataset, encoder: dict) -> float:
    """Standard deviation of the data as the network sees it, two digits. Raises UserError where it is not known."""
    if encoder["name"] != "rgb" and dataset.encoder is None:
        raise UserError(
            f"precond.sigma_data=auto: images are encoded by {encoder['name']} at every step, so their deviation is "
            "not known; store the latents by dataset_tool.py encode, or give a number"
        )
    std = statistics(dataset)[1] if distributed.is_main() else None
    value = float(f"{distributed.broadcast_object(std):.2g}")
    distributed.print0(f"sigma_data {value} (measured)")
    return value


def dataset_spec(dataset: Dataset) -> NetSpec:
    """What the data set alone asks of a network; for stored latents, before the encoder has seen them."""
    return NetSpec(
        resolution=tuple(dataset.resolution),
        image_channels=dataset.channels,
        vector={"labels": dataset.label_dim},
        latent=dataset.encoder is not None,
    )
