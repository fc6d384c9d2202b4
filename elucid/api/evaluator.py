"""Detectors and references, opened once, that score several sets of images."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from elucid.api.references import crop, references_of_images
from elucid.api.sources import Source, warn
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import is_url, require_writable, write_output
from elucid.dnnlib.plugins import installed
from elucid.metrics.detectors import Detector, make_detector
from elucid.metrics.measures.collect import Collected, Wanted, collect, on_main, require_outputs, sizes
from elucid.metrics.measures.evaluate import Metric, evaluate, require_counts, require_reference
from elucid.metrics.measures.feature_file import save_features
from elucid.metrics.measures.names import METRICS, metric_names
from elucid.metrics.names import DETECTORS
from elucid.metrics.reference import Provenance, Reference, load_reference, require_same_detector, require_same_shape
from elucid.torch_utils import distributed


@dataclass(frozen=True, repr=False)
class Score:
    """The scores of a set of images and how they were computed: `about` has detector, reference, images and sampling.

    `name` and `value` are those of the first of `metrics`. `score["kid"]` is another, by its metric or its name.
    """

    name: str
    value: float
    num_images: int
    ref_images: int | None  # None for EDM's reference files, which do not store it
    about: dict[str, Any]
    metrics: tuple[Metric, ...] = ()

    def __repr__(self) -> str:
        ref = f"{self.ref_images or 'unknown many'} of {self.about.get('ref')}"
        more = "".join(f"; {metric.name}: {metric.value:.6g}" for metric in self.metrics[1:])
        return f"<elucid.Score {self.name}: {self.value:.6g}, {self.num_images} images against {ref}{more}>"

    def __getitem__(self, name: str) -> Metric:
        for metric in self.metrics:
            if name in (metric.metric, metric.name):
                return metric
        raise KeyError(f"{name!r} was not computed; there are {', '.join(metric.metric for metric in self.metrics)}")

    def records(self) -> list[str]:
        """Return lines of text: the detectors, how the images were read, and how those of the reference were."""
        detectors = [self.about, *self.about.get("more_detectors", ())]
        lines = [
            f"detector {one['detector']} {one['detector_sha256'][:12]}, resize {one['resize']}" for one in detectors
        ]
        made = {"images": self.about, "reference": self.about.get("ref_made") or {}}
        return lines + [f"{what}: {Provenance.of(values).line}" for what, values in made.items()]

    def as_dict(self) -> dict[str, Any]:
        own = {"name": self.name, "value": self.value, "num_images": self.num_images, "ref_images": self.ref_images}
        return {**own, **self.about, "metrics": [metric.as_dict() for metric in self.metrics]}


class Evaluator:
    """Computes metrics of sets of images against references, in the features of one or more detectors.

    `ref`: reference files, or one folder or zip of images, or None for metrics without a reference. What is computed
    of images is kept in the cache, unless `cache` is False. Raises UserError for references that lack something or
    that another detector made.
    """

    def __init__(
        self,
        ref: str | os.PathLike | Sequence[str | os.PathLike] | None,
        metrics: str | Sequence[str] = ("fid",),
        detector: str | Sequence[str] | None = None,
        detector_weights: str | os.PathLike | None = None,
        *,
        intervals: bool = False,
        batch: int = 64,
        workers: int | None = None,
        cache: bool = True,
        device: torch.device,
    ):
        self.metrics, self.intervals, self.device = metric_names(metrics), intervals, device
        self.wanted = Wanted.of(self.metrics, intervals)
        self.refs = [
            os.fspath(one) for one in ([] if ref is None else [ref] if isinstance(ref, str | os.PathLike) else ref)
        ]
        names = None if detector is None else detector.split(",") if isinstance(detector, str) else list(detector)
        self.references: list[Reference | None] = []
        if not self.refs:
            self._require_none_needed()
            names = names or ["inception"]
        elif len(self.refs) == 1 and holds_images(self.refs[0]):
            if names is None:
                raise UserError(
                    f"{self.refs[0]} holds images, not a reference; name the detector to compare them in: "
                    "`detector`=inception, or give a file made by fid.py ref"
                )
        else:
            self.references = [self._load(one) for one in self.refs]
            names = names or [own_detector(one) for one in self.references if one is not None]
            if len(names) != len(self.references):
                raise UserError(
                    f"{len(names)} detectors but {len(self.references)} reference files; give one `ref` for each"
                )
        if detector_weights is not None and len(names) > 1:
            raise UserError("`detector_weights` is for one detector; give one `detector`, or leave the weights out")
        if len(set(names)) < len(names):
            raise UserError(
                f"detector {max(names, key=names.count)} is there twice; score against one reference at a time"
            )
        self.detectors = [make_detector(name, device, detector_weights) for name in names]
        for one in self.detectors:
            require_outputs(one, self.wanted)
        if not self.refs:
            self.references = [None] * len(self.detectors)
        elif not self.references:
            rows = any(METRICS[name].of_reference == "rows" for name in self.metrics)
            outputs = (rows, "sfid" in self.metrics)
            self.references = references_of_images(self.refs[0], self.detectors, *outputs, batch, workers, cache)
        for reference, one in zip(self.references, self.detectors, strict=True):
            if reference is not None:
                require_same_detector(reference, one)
                require_reference(self.metrics, reference)
                if reference.features is not None and len(reference.features):
                    reference_only = [name for name in self.metrics if METRICS[name].of_reference == "rows"]
                    require_counts(reference_only, len(reference.features), "reference")

    def __call__(self, source: Source, features: str | os.PathLike | None = None) -> Score:
        """Score images; `features` is a file for their features. All processes must call it."""
        wanted = self.wanted
        if features is not None:
            self._require_feature_file(features)
            wanted = replace(wanted, rows=wanted.rows | {"features"})
        for reference in self.references:
            if reference is not None:
                require_same_shape(reference, source.provenance)
        for one in self.detectors:
            require_counts(self.metrics, source.num, "generated", one.dim)
            for output in wanted.statistics:
                warn_of_few(source.num, sizes(one)[output])
        found = collect(self.detectors, [wanted] * len(self.detectors), source.batches, source.order, source.num)
        if features is not None and distributed.is_main():
            with write_output(features) as file:
                save_features(file, found[0].rows["features"], source.names, self.detectors[0])
        metrics = on_main(lambda: self.metrics_of(found, source.num))
        first, reference = self.detectors[0], self.references[0]
        about = {**source.about, **described(first), "ref": ", ".join(self.refs) or None}
        about |= asdict(replace(source.provenance, crop=crop(first), data_sha256=found[0].sha256))
        about["ref_made"] = None if reference is None else asdict(reference.provenance)
        if len(self.detectors) > 1:
            about["more_detectors"] = [described(one) for one in self.detectors[1:]]
        ref_images = None if reference is None else reference.num_images
        return Score(metrics[0].name, metrics[0].value, source.num, ref_images, about, tuple(metrics))

    def metrics_of(self, found: list[Collected], num: int) -> list[Metric]:
        """Return the metrics of what was collected by each detector of `num` images, on the main process."""
        count, metrics = f"{num // 1000}k" if num % 1000 == 0 else f"{num}", []
        for detector, collected, reference in zip(self.detectors, found, self.references, strict=True):
            for name, value, interval in evaluate(self.metrics, collected, reference, self.intervals, self.device):
                metrics.append(Metric(f"{name}{count}_{detector.name}", name, detector.name, value, interval))
        return metrics

    def _load(self, ref: str) -> Reference:
        rows = any(METRICS[name].of_reference == "rows" for name in self.metrics)
        return load_reference(ref, features=rows, spatial="sfid" in self.metrics)

    def _require_none_needed(self) -> None:
        for name in self.metrics:
            if METRICS[name].of_reference != "nothing":
                raise UserError(f"the metric {name} needs a reference: give `ref`=FILE made by fid.py ref")

    def _require_feature_file(self, path: str | os.PathLike) -> None:
        if len(self.detectors) > 1:
            raise UserError("`features` holds the features of one detector; give one `detector`")
        if not os.fspath(path).endswith(".npz"):
            raise UserError(f"`features`={path} must end in .npz")
        if distributed.is_main():
            require_writable(path)


def holds_images(path: str) -> bool:
    """Return whether a path is a folder, a zip, or a folder inside a zip, and not an npz file."""
    return not is_url(path) and (Path(path).is_dir() or any(Path(part).suffix == ".zip" for part in _starts(path)))


def _starts(path: str) -> list[str]:
    return [path, *map(str, Path(path).parents)]


def own_detector(reference: Reference) -> str:
    """Return the name of the reference's detector. A reference file may not name external code."""
    if reference.detector not in {*DETECTORS, *installed("detector")}:
        raise UserError(
            f"{reference.path} was made with {reference.detector}, which is external code; "
            "if you trust it, name it: `detector`=file.py:Name"
        )
    return reference.detector


def described(detector: Detector) -> dict[str, str]:
    return {"detector": detector.name, "detector_sha256": detector.sha256, "resize": detector.resize}


def warn_of_few(num: int, dim: int) -> None:
    if num <= dim:
        warn(f"{num} images are too few for {dim} dimensions; compare only with distances of as many images")
