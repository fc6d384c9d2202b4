"""The reference of a run's scores: its own training images, computed once and kept in the run's folder."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from elucid.api.evaluator import Evaluator
from elucid.api.references import DATA_LABELS, crop
from elucid.api.sources import of_dataset
from elucid.dnnlib.errors import UserError
from elucid.evaluation.results import FOLDER
from elucid.metrics.detectors import Detector, takes_arrays
from elucid.metrics.measures.collect import Wanted, collect, sizes
from elucid.metrics.measures.names import METRICS, metric_names
from elucid.metrics.reference import load_reference, require_same_detector, save_reference
from elucid.torch_utils import distributed
from elucid.torch_utils.signals import StopRequest
from elucid.training.config.settings import DataOptions
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.data.streaming.sources import is_sharded

MOST_ROWS = 10_000
"""Training images that are used by default for metrics that compare single images, as their time grows with it."""


class Interrupted(Exception):
    """Raised on all processes together when a stop of the run is requested."""


def in_step(batches: Iterable[Tensor], rounds: int, stop: StopRequest) -> Iterator[Tensor]:
    """Yield this process's batches; in each of the `rounds` all processes agree to go on, or raise Interrupted."""
    own = iter(batches)
    for _ in range(rounds):
        batch = None
        with suppress(Interrupted):  # raised while a batch was made; the others learn it here
            batch = next(own, None)
        if distributed.any_rank(stop.requested):
            raise Interrupted
        if batch is not None:
            yield batch


def needs_rows(metrics: str | Iterable[str]) -> bool:
    return any(METRICS[name].of_reference == "rows" for name in metric_names(metrics))


def needs_reference(metrics: str | Iterable[str]) -> bool:
    return any(METRICS[name].of_reference != "nothing" for name in metric_names(metrics))


def training_evaluator(
    folder: Path,
    data: DataOptions,
    metrics: str | tuple[str, ...],
    detector: str,
    detector_weights: str | os.PathLike | None,
    most: int | None,
    *,
    batch: int,
    device,
    network: Detector,
    stop: StopRequest | None = None,
) -> Evaluator:
    """Return an evaluator against at most `most` training images of a run, from the file in its folder or a new one.

    `network` is the detector, which `detector` names. All processes must call it. Raises UserError if the training data
    cannot be read as images, and Interrupted after a stop request.
    """
    ref = None
    if needs_reference(metrics):
        rows = needs_rows(metrics)
        ref = str(folder / FOLDER / f"reference-{re.sub(r'[^A-Za-z0-9_.-]+', '_', network.name)}.npz")
        images = open_images(data, most or (MOST_ROWS if rows else None), takes_arrays(network))
        if not distributed.broadcast_object(distributed.is_main() and _fits(ref, images, network, rows)):
            _make(ref, images, network, rows, batch, stop or StopRequest())
    return Evaluator(ref, metrics, detector, detector_weights, batch=batch, device=device)


def open_images(data: DataOptions, most: int | None, arrays: bool = False) -> ImageDataset:
    """Open the training images, or a subset of them. Raises UserError if they are no images."""
    if data.reader is not None or is_sharded(data.path):
        raise UserError(
            f"`data`: {data.path} is read by {data.reader or 'shards'}, so it cannot serve as reference; give a `ref`, "
            "or while training --set eval.ref=FILE"
        )
    sizes_given = [size for size in (data.max_size, most) if size is not None]
    most = min(sizes_given, default=None)
    return open_dataset(data.path, max_size=most, seed=data.subset_seed, check=False, arrays=arrays)


def _fits(ref: str, images: ImageDataset, network: Detector, rows: bool) -> bool:
    """Return whether the file is a reference of so many images in the features of this detector."""
    if not os.path.isfile(ref):
        return False
    try:
        known = load_reference(ref, features=False, spatial=True)
        require_same_detector(known, network)
        return known.num_images == len(images) and (not rows or load_reference(ref, features=True).features is not None)
    except UserError:
        return False


def _make(ref: str, images: ImageDataset, network: Detector, rows: bool, batch: int, stop: StopRequest) -> None:
    spatial = "spatial" in sizes(network)
    wanted = Wanted(
        frozenset({"features", "spatial"} if spatial else {"features"}), frozenset({"features"} if rows else ())
    )
    source = of_dataset(images, batch, None, {}, DATA_LABELS if images.has_labels else "none")
    rounds = -(-len(images) // (batch * distributed.world_size()))
    (found,) = collect([network], [wanted], in_step(source.batches, rounds, stop), source.order, source.num)
    if distributed.is_main():
        made = replace(source.provenance, crop=crop(network), data_sha256=found.sha256)
        own, early, kept = found.statistics["features"], found.statistics.get("spatial"), found.rows.get("features")
        save_reference(ref, own, network, features=kept, spatial=early, provenance=made)
    distributed.barrier()
