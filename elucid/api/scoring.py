"""Scores images: distances to a reference in the features of detectors, and references."""

import os
import statistics
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from elucid.api.evaluator import Evaluator, warn_of_few
from elucid.api.evaluator import Score as Score
from elucid.api.references import collect_dataset
from elucid.api.sources import Source, of_pipeline, open_source, require_taken
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.metrics.detectors import make_detector
from elucid.metrics.measures.collect import sizes
from elucid.metrics.reference import save_reference
from elucid.torch_utils import distributed
from elucid.training.data.dataset import open_dataset
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.pipeline import load_pipeline


def score(
    images: str | os.PathLike | Tensor | Source,
    ref: str | os.PathLike | Sequence[str | os.PathLike] | None,
    *,
    metrics: str | Sequence[str] = ("fid",),
    intervals: bool = False,
    features: str | os.PathLike | None = None,
    num: int | None = None,
    seed: int = 0,
    detector: str | Sequence[str] | None = None,
    detector_weights: str | os.PathLike | None = None,
    batch: int = 64,
    workers: int | None = None,
    cache: bool = True,
    device: str | None = None,
) -> Score:
    """Compute metrics of images against a reference in the features of a detector; by default the Fréchet distance.

    `images`: a folder or zip, u8[N,C,H,W], or a `Source`. `ref`: a file written by `reference` or by EDM's scripts, or
    a folder or zip of images; several files for several detectors. `metrics`: of fid (Heusel et al. 2017), sfid,
    fid_inf, kid, mind, pr (precision and recall), dc (density and coverage), is. `intervals` computes the 95 %
    interval of the Fréchet distances, too. `features` is a file to write the features of the images to. If there are
    more than `num` images, a subset determined by `seed` is used. `detector` defaults to the reference's. `batch`
    images are decoded or sampled at once; the result does not depend on it. `cache` keeps what is computed of a `ref`
    of images.
    Raises UserError if detector and reference do not match, if a reference lacks what a metric needs, or if there are
    fewer images.
    """
    place = distributed.choose_device(device)
    distributed.init(place)
    work: dict[str, Any] = {"batch": batch, "workers": workers, "device": place}
    if not isinstance(images, Source | Tensor | str | os.PathLike):
        raise UserError(f"`images` is of type {type(images).__name__}; give a folder, a zip or a tensor u8[N,C,H,W]")
    images = os.fspath(images) if isinstance(images, os.PathLike) else images
    evaluator = Evaluator(ref, metrics, detector, detector_weights, intervals=intervals, cache=cache, **work)
    source = (
        images if isinstance(images, Source) else open_source(images, num, seed, batch, workers, evaluator.detectors)
    )
    return evaluator(source, features)


def score_blocks(
    network: str, seeds: Sequence[int], options: SampleOptions, blocks: int, ref, *, device: str | None = None, **how
) -> list[Score]:
    """Score samples of disjoint blocks of seeds, all of the same size; `how` is as for `score`.

    Raises UserError if the seeds cannot be divided evenly.
    """
    seeds = list(dict.fromkeys(seeds))
    size = len(seeds) // blocks
    if size * blocks != len(seeds) or size < 2:
        raise UserError(
            f"{len(seeds)} seeds make no {blocks} equal blocks of at least 2; give {blocks} times as many `seeds` as "
            "images to score, e.g. 0-149999 for 3 blocks of 50000"
        )
    place = distributed.choose_device(device)
    distributed.init(place)
    evaluator = Evaluator(ref, device=place, **how)
    pipeline = load_pipeline(network, options, place)
    parts = (seeds[start : start + size] for start in range(0, len(seeds), size))
    return [evaluator(of_pipeline(pipeline, network, part, how.get("batch", 64))) for part in parts]


def spread(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Return name, minimum, mean and standard deviation of each metric over at least two scores."""
    result = []
    for position, metric in enumerate(scores[0].metrics):
        values = [one.metrics[position].value for one in scores]
        numbers = {"minimum": min(values), "mean": statistics.fmean(values), "deviation": statistics.stdev(values)}
        result.append({"name": metric.name, "metric": metric.metric, "detector": metric.detector, **numbers})
    return result


def reference(
    data: str | os.PathLike,
    dest: str | os.PathLike,
    *,
    detector: str = "inception",
    detector_weights: str | None = None,
    features: bool = False,
    batch: int = 64,
    workers: int | None = None,
    device: str | None = None,
) -> str:
    """Write reference statistics of a dataset to `dest` (.npz); returns a line that describes them.

    `features` also writes the features, for the metrics kid, pr and dc, and the spatial statistics of a detector that
    has them, for sfid.
    """
    data, dest = os.fspath(data), os.fspath(dest)
    if not dest.endswith(".npz"):
        raise UserError(f"`dest`={dest} must end in .npz")
    if distributed.is_main():
        require_writable(dest)
    place = distributed.choose_device(device)
    distributed.init(place)
    dataset = open_dataset(data, arrays=True)
    network = make_detector(detector, place, detector_weights)
    require_taken(dataset, [network])
    spatial = features and "spatial" in sizes(network)
    ((found, provenance),) = collect_dataset(dataset, [network], features, spatial, batch, workers)
    warn_of_few(found.num, network.dim)
    if distributed.is_main():
        own, early, rows = found.statistics["features"], found.statistics.get("spatial"), found.rows.get("features")
        save_reference(dest, own, network, features=rows, spatial=early, provenance=provenance)
    return f"{dest}: {network.name} features of {found.num} images of {data}"
