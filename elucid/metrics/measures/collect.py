"""Computes what the metrics need in one pass over the images, on one or more processes."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.metrics.detectors import Detector, require_suitable
from elucid.metrics.measures.chunks import chunk_size, in_chunks
from elucid.metrics.measures.names import METRICS
from elucid.metrics.statistics import FeatureStatistics
from elucid.torch_utils import distributed

BLOCK = 512
"""Images whose features are merged and moved at once."""

LAYERS = {"spatial": "spatial features", "logits": "logits"}


@dataclass(frozen=True)
class Wanted:
    """Outputs of a detector of which mean and covariance are wanted, and those of which all rows are."""

    statistics: frozenset[str] = frozenset({"features"})
    rows: frozenset[str] = frozenset()

    @classmethod
    def of(cls, metrics: Iterable[str], intervals: bool = False) -> "Wanted":
        """Return what metrics need; intervals need the rows of everything."""
        needs = [METRICS[name] for name in metrics]
        statistics = {need.output for need in needs if need.of_reference == "statistics"}
        return cls(frozenset(statistics), frozenset(need.output for need in needs if need.rows or intervals))

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(sorted(self.statistics | self.rows))


@dataclass
class Collected:
    """Of one detector: the number of images, statistics by output on all processes, and rows f32[N,D] by output, in the
    order of the images, on the main process only. `sha256` is that of all pixels in any order."""

    num: int = 0
    statistics: dict[str, FeatureStatistics] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    sha256: str = ""


def collect(
    detectors: Sequence[Detector],
    wanted: Sequence[Wanted],
    batches: Iterable[Tensor],
    order: Sequence[int],
    total: int,
) -> list[Collected]:
    """Compute what is wanted of each detector over the batches [B,C,H,W] of all processes, `total` images in all.

    `order` are the places of this process's images among all. All processes must call it. Detectors see chunks of one
    size whatever that of the batches is. Raises UserError if there are fewer than two images, if all are the
    same, if a feature is not finite, if a detector has no such output, or does not take such images.
    """
    if total < 2:
        raise UserError(f"a covariance needs at least two images, not {total}")
    for detector, want in zip(detectors, wanted, strict=True):
        require_outputs(detector, want)
    passes = [_Pass(detector, want) for detector, want in zip(detectors, wanted, strict=True)]
    digests: list[bytes] = []
    names = " and ".join(detector.name for detector in detectors)
    with progress_bar(total=total, desc=f"{names} features", disable=not distributed.is_main(), delay=1) as bar:
        for images, count in in_chunks(batches, chunk_size(detectors[0].device)):
            pixels = images[:count].cpu().numpy()  # first, since it waits for what the device has been given
            for one in passes:
                require_suitable(one.detector, images)
                one.update(images, count)
            digests += map(_digest, pixels)
            # The progress bar assumes the same speed on all processes.
            bar.update(min(count * distributed.world_size(), total - bar.n))
    everywhere = sorted(digest for part in distributed.gather_objects(digests) for digest in part)
    if len(set(everywhere)) == 1:
        raise UserError(f"all {total} images are the same one; check what made them")
    together = hashlib.sha256(b"".join(everywhere)).hexdigest()
    return [one.finish(order, total, together) for one in passes]


def require_outputs(detector: Detector, want: Wanted) -> None:
    """Raise UserError if the detector lacks an output that a metric needs."""
    for output in want.outputs:
        if output != "features" and output not in sizes(detector):
            metric = next(name for name, need in METRICS.items() if need.output == output)
            raise UserError(
                f"detector {detector.name} has no {LAYERS[output]}, which the metric {metric} needs; "
                "use `detector`=inception, or leave the metric out"
            )


def sizes(detector: Detector) -> dict[str, int]:
    """Return the dimensions of each output of a detector, which need not derive from `Detector`."""
    return {"features": detector.dim, **getattr(detector, "extra", {})}


class _Pass:
    """What is collected of one detector on this process."""

    def __init__(self, detector: Detector, want: Wanted):
        self.detector, self.want = detector, want
        self.statistics = {name: FeatureStatistics(sizes(detector)[name], detector.device) for name in want.statistics}
        self.waiting: dict[str, list[Tensor]] = {name: [] for name in want.outputs}
        self.rows: dict[str, list[Tensor]] = {name: [] for name in want.rows}

    def update(self, images: Tensor, count: int) -> None:
        """Add the first `count` images of a chunk."""
        for name, values in self._outputs(images).items():
            self.waiting[name].append(values[:count].flatten(1))
            if sum(map(len, self.waiting[name])) >= BLOCK:
                self._flush(name)

    def _outputs(self, images: Tensor) -> dict[str, Tensor]:
        if self.want.outputs == ("features",):
            return {"features": self.detector(images)}
        return self.detector.outputs(images, self.want.outputs)

    def _flush(self, name: str) -> None:
        """Move what waits to statistics and rows, in blocks: merging covariances takes as long for few images."""
        if not self.waiting[name]:
            return
        values, self.waiting[name] = torch.cat(self.waiting[name]), []
        if name in self.statistics:
            self.statistics[name].update(values)
        if name in self.rows:
            self.rows[name].append(values.float().cpu())

    def finish(self, order: Sequence[int], total: int, pixels: str) -> Collected:
        for name in self.want.outputs:
            self._flush(name)
        statistics = {name: self.statistics[name].all_reduce() for name in sorted(self.statistics)}
        rows = {
            name: _in_order(self.rows[name], order, total, sizes(self.detector)[name]) for name in sorted(self.rows)
        }
        finite = all(bool(torch.isfinite(one.scatter).all()) for one in statistics.values())
        finite = finite and all(bool(torch.isfinite(part).all()) for one in rows.values() for part in one.split(BLOCK))
        if distributed.any_rank(not finite):
            name = self.detector.name
            raise UserError(f"the features of detector {name!r} are not finite; check its weights")
        return Collected(total, statistics, rows, pixels)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def _in_order(parts: list[Tensor], order: Sequence[int], total: int, dim: int) -> Tensor:
    """Return the rows of all processes in the order of the images on the main process, and no rows on the others.

    They move in the given parts, which this empties, so that no process holds them twice.
    """
    rows = torch.empty(total if distributed.is_main() else 0, dim)
    places, start = np.asarray(order, dtype=np.int64), 0
    for _ in range(max(distributed.gather_objects(len(parts)))):
        values = parts.pop(0).numpy() if parts else np.empty((0, dim), np.float32)
        gathered = distributed.gather_to_main((places[start : start + len(values)], values))
        start += len(values)
        for at, received in gathered or ():
            rows[torch.from_numpy(at)] = torch.from_numpy(received)
    return rows


def on_main(call: Callable):
    """Call a function on the main process and return its result on all; its UserError is raised on all."""
    result, message = None, None
    if distributed.is_main():
        try:
            result = call()
        except UserError as error:
            message = str(error)
    result, message = distributed.broadcast_object((result, message))
    if message is not None:
        raise UserError(message)
    return result
