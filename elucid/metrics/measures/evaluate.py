"""From collected features and a reference to the values of metrics."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import NormalDist

import torch

from elucid.dnnlib.errors import UserError
from elucid.metrics.frechet import frechet_distance
from elucid.metrics.measures.collect import Collected
from elucid.metrics.measures.frechet_error import frechet_at_infinity, frechet_error
from elucid.metrics.measures.inception_score import SPLITS, inception_score, shuffled
from elucid.metrics.measures.kernel import kernel_distance
from elucid.metrics.measures.names import METRICS
from elucid.metrics.measures.neighbours import K_DENSITY, K_PRECISION, neighbourhoods
from elucid.metrics.measures.sliced import monge_distance
from elucid.metrics.reference import Reference
from elucid.metrics.wilson import interval as wilson

NORMAL = NormalDist().inv_cdf(0.975)
STUDENT = 2.2621571627409915  # 0.975 quantile of Student's t with SPLITS - 1 = 9 degrees of freedom


@dataclass(frozen=True)
class Metric:
    """The value of one metric: `metric` in the features of `detector`, with a 95 % interval if it was computed.

    `name` also has the number of images, e.g. `kid50k_inception`.
    """

    name: str
    metric: str
    detector: str
    value: float
    interval: tuple[float, float] | None = None

    def __repr__(self) -> str:
        return f"<elucid.Metric {self.line}>"

    @property
    def line(self) -> str:
        """Name, value and interval as text."""
        low_high = "" if self.interval is None else " (95 % interval {:.6g} to {:.6g})".format(*self.interval)
        return f"{self.name} {self.value:.6g}{low_high}"

    def as_dict(self) -> dict:
        return asdict(self)


Value = tuple[str, float, tuple[float, float] | None]
"""Metric, value and 95 % interval."""


def require_reference(metrics: Iterable[str], reference: Reference) -> None:
    """Raise UserError if the reference lacks what a metric needs."""
    for name in metrics:
        need = METRICS[name]
        if need.of_reference == "rows" and reference.features is None:
            raise UserError(
                f"{reference.path} has no features, which the metric {name} needs; create it again with "
                "fid.py ref --features, or give the images themselves as `ref`"
            )
        if need.output == "spatial" and reference.spatial is None:
            raise UserError(
                f"{reference.path} has no spatial statistics, which the metric {name} needs; create it again with "
                "fid.py ref --features, or give the images themselves as `ref`"
            )


def evaluate(
    metrics: Iterable[str], found: Collected, reference: Reference | None, intervals: bool, device: torch.device
) -> list[Value]:
    """Compute metrics of what was collected, on the main process. Raises UserError for too few images.

    Kernel distance, precision, recall, density, coverage and inception score have an interval always, the Fréchet
    distances if `intervals`. All but that of the kernel distance and of the recall take the reference as fixed.
    """
    names, values = list(metrics), []
    device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
    k = K_DENSITY if "dc" in names else K_PRECISION
    around = None
    for name in names:
        if name in ("pr", "dc"):
            around = around or neighbourhoods(reference.features.to(device), found.rows["features"].to(device), k)
            values += _precision(around) if name == "pr" else _density(around)
        else:
            values.append((name, *_SINGLE[name](found, reference, intervals, device)))
    return values


def _frechet(output: str) -> Callable:
    def compute(found: Collected, reference: Reference, intervals: bool, device: torch.device):
        gaussian = (reference.mean, reference.covariance) if output == "features" else reference.spatial
        statistics = found.statistics[output]
        value = frechet_distance(statistics.mean, statistics.covariance, *gaussian)
        return value, _normal(value, frechet_error(found.rows[output].to(device), *gaussian)) if intervals else None

    return compute


def _frechet_at_infinity(found: Collected, reference: Reference, intervals: bool, device: torch.device):
    return frechet_at_infinity(found.rows["features"].to(device), reference.mean, reference.covariance), None


def _kernel(found: Collected, reference: Reference, intervals: bool, device: torch.device):
    value, error = kernel_distance(found.rows["features"].to(device), reference.features.to(device))
    return value, _normal(value, error)


def _monge(found: Collected, reference: Reference, intervals: bool, device: torch.device):
    return monge_distance(found.rows["features"].to(device), reference.features.to(device)), None


def _inception_score(found: Collected, reference: Reference | None, intervals: bool, device: torch.device):
    value, scores = inception_score(shuffled(found.rows["logits"]).to(device))
    half = STUDENT * float(scores.std()) / math.sqrt(SPLITS)
    return value, (value - half, value + half)


_SINGLE = {
    "fid": _frechet("features"),
    "sfid": _frechet("spatial"),
    "fid_inf": _frechet_at_infinity,
    "kid": _kernel,
    "mind": _monge,
    "is": _inception_score,
}


def _precision(around) -> list[Value]:
    shares = {"precision": (around.precision, around.inside), "recall": (around.recall, around.found)}
    return [(name, share, wilson(share, len(images))) for name, (share, images) in shares.items()]


def _density(around) -> list[Value]:
    low, high = _normal(around.coverage, around.coverage_error)
    density = ("density", around.density, _normal(around.density, around.density_error))
    return [density, ("coverage", around.coverage, (max(low, 0.0), min(high, 1.0)))]


def _normal(value: float, error: float) -> tuple[float, float] | None:
    return (value - NORMAL * error, value + NORMAL * error) if math.isfinite(error) else None


def require_counts(metrics: Iterable[str], num: int, what: str, dim: int = 0) -> None:
    """Raise UserError if there are too few images for a metric, before their features are computed."""
    for name, fewest in {
        "pr": K_PRECISION + 1,
        "dc": K_DENSITY + 1,
        "kid": 2,
        "mind": 2,
        "is": SPLITS,
        "fid_inf": 4 * dim,
    }.items():
        if name in metrics and num < fewest:
            raise UserError(
                f"the metric {name} needs at least {fewest} {what} images, not {num}; give more, or leave it out"
            )
