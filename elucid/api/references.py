"""References: what metrics need of all images of a folder or zip, computed or from the cache."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from elucid.api.sources import of_dataset, require_taken, warn
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import cache_folder
from elucid.dnnlib.progress import progress_bar
from elucid.metrics.detectors import Detector
from elucid.metrics.measures.collect import Collected, Wanted, collect, on_main
from elucid.metrics.reference import Provenance, Reference, load_reference, save_reference
from elucid.torch_utils import distributed
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.version import __version__

DATA_LABELS = "as in the data"
CACHE_BYTES = 5 * 10**9
"""The references used longest ago are removed when all take more."""


def references_of_images(
    path: str, detectors: Sequence[Detector], rows: bool, spatial: bool, batch: int, workers: int | None, cache: bool
) -> list[Reference | None]:
    """Return a reference for each detector of all images of a folder or zip. All processes must call it.

    With `cache` those of the project's own detectors are kept in `$ELUCID_CACHE/references`, by the SHA-256 of all
    files and the detector's, and found there the next time. External code may change without changing its hash. Only
    the main process has the features.
    """
    dataset = open_dataset(path, arrays=True)
    require_taken(dataset, detectors)
    own = [cache and type(one).__module__.startswith("elucid.") for one in detectors]
    content = on_main(lambda: content_hash(dataset)) if any(own) else ""
    kept = [
        _file(content, detector, rows, spatial) if ours else None for ours, detector in zip(own, detectors, strict=True)
    ]
    found = _on_all([_read(path, file, rows, spatial) for file in kept] if distributed.is_main() else [])
    missing = [place for place, reference in enumerate(found) if reference is None]
    if missing:
        lacking = [detectors[place] for place in missing]
        computed = collect_dataset(dataset, lacking, rows, spatial, batch, workers)
        for place, detector, (one, made) in zip(missing, lacking, computed, strict=True):
            found[place] = of_collected(path, detector, one, made)
            if distributed.is_main() and (file := kept[place]) is not None:
                _write(path, file, detector, one, made)
    return found


def collect_dataset(
    dataset: ImageDataset, detectors: Sequence[Detector], rows: bool, spatial: bool, batch: int, workers: int | None
) -> list[tuple[Collected, Provenance]]:
    """Compute what a reference holds of all images of a dataset, for each detector."""
    source = of_dataset(dataset, batch, workers, {}, DATA_LABELS if dataset.has_labels else "none")
    statistics = frozenset({"features", "spatial"} if spatial else {"features"})
    wanted = Wanted(statistics, frozenset({"features"} if rows else ()))
    found = collect(detectors, [wanted] * len(detectors), source.batches, source.order, source.num)
    made = [
        replace(source.provenance, crop=crop(detector), data_sha256=one.sha256)
        for detector, one in zip(detectors, found, strict=True)
    ]
    return list(zip(found, made, strict=True))


def of_collected(path: str, detector: Detector, found: Collected, made: Provenance) -> Reference:
    """Return a reference that lies in no file."""
    features, spatial = found.statistics["features"], found.statistics.get("spatial")
    return Reference(
        path=path,
        mean=features.mean,
        covariance=features.covariance,
        **{"detector": detector.name, "detector_sha256": detector.sha256, "resize": detector.resize},
        num_images=found.num,
        provenance=made,
        features=found.rows.get("features"),
        spatial=None if spatial is None else (spatial.mean, spatial.covariance),
    )


def crop(detector: Detector) -> str:
    """Return which part of an image a detector sees."""
    return getattr(detector, "crop", "none")


def content_hash(dataset: ImageDataset) -> str:
    """Return the SHA-256 of the names and bytes of all image files, in their order, and of whether there are labels."""
    digest = hashlib.sha256(b"labels" if dataset.has_labels else b"none")
    for index in progress_bar(range(len(dataset)), desc="hash of the reference images", delay=1):
        for part in (dataset.image_name(index).encode(), dataset.encoded(index)):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _file(content: str, detector: Detector, rows: bool, spatial: bool) -> Path:
    """Return where a reference is kept; what can change the last bit of a feature has a part in the name."""
    device = detector.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    key = {
        "content": content,
        "detector": [detector.name, detector.sha256, detector.resize, detector.dim, crop(detector)],
        "outputs": [rows, spatial],
        "made by": [__version__, torch.__version__, device.type, machine],
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder() / "references" / f"{detector.name}-{name}.npz"


def _on_all(references: list[Reference | None]) -> list[Reference | None]:
    """Return the main process's references on all, the features only on it, as collecting leaves them."""
    light = [
        one if one is None or one.features is None else replace(one, features=one.features[:0].clone())
        for one in references
    ]
    light = distributed.broadcast_object(light)
    return references if distributed.is_main() else light


def _read(path: str, file: Path | None, rows: bool, spatial: bool) -> Reference | None:
    if file is None or not file.is_file():
        return None
    try:
        reference = load_reference(str(file), features=rows, spatial=spatial)
        with suppress(OSError):
            os.utime(file)
    except UserError as error:
        warn(f"the kept reference is not used: {error}")
        return None
    print(f"note: reference of {path} read from {file}; --cache=0 computes it", file=sys.stderr)
    return replace(reference, path=path)


def _write(path: str, file: Path, detector: Detector, found: Collected, made: Provenance) -> None:
    own, spatial, rows = found.statistics["features"], found.statistics.get("spatial"), found.rows.get("features")
    try:
        save_reference(file, own, detector, features=rows, spatial=spatial, provenance=made)
        kept = sorted(file.parent.glob("*-*.npz"), key=lambda one: one.stat().st_mtime, reverse=True)
        total = 0
        for one in kept:
            total += one.stat().st_size
            if total > CACHE_BYTES:
                one.unlink(missing_ok=True)
    except (UserError, OSError) as error:
        warn(f"the reference of {path} is not kept: {error}")
        return
    if file.is_file():
        print(f"note: reference of {path} kept in {file} for the next time", file=sys.stderr)
