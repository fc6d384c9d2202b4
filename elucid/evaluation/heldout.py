"""The loss of held-out images against that of training images, by noise level."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from elucid.evaluation.results import Curve, Result, Series, Table

NORMAL = NormalDist().inv_cdf(0.975)
POWER = NormalDist().inv_cdf(0.8)
FALSE_ALARMS = 0.01
"""Chance of a verdict of overfitting where there is none, over all levels together."""


@dataclass(frozen=True)
class Gap:
    """Held-out minus training loss at each level f64[N], its standard errors, and both of the mean over levels."""

    levels: np.ndarray
    errors: np.ndarray
    mean: float
    error: float

    @property
    def z(self) -> np.ndarray:
        """The gaps in standard errors."""
        return np.divide(self.levels, self.errors, out=np.zeros_like(self.levels), where=self.errors > 0)

    @property
    def mean_z(self) -> float:
        return self.mean / self.error if self.error > 0 else 0.0

    @property
    def threshold(self) -> float:
        """Standard errors above which a gap is no accident: Bonferroni's, of all levels and the mean, one-sided."""
        return NormalDist().inv_cdf(1 - FALSE_ALARMS / (len(self.levels) + 1))

    @property
    def overfits(self) -> bool:
        return max(float(self.z.max()), self.mean_z) > self.threshold


def gap(train: np.ndarray, held_out: np.ndarray) -> Gap:
    """Compute the gap between losses f64[images,levels] of two independent sets of images.

    The errors of the levels of an image are correlated, so that of the mean comes from each image's mean.
    """
    levels, errors = _difference(train, held_out)
    (mean,), (error,) = _difference(train.mean(1, keepdims=True), held_out.mean(1, keepdims=True))
    return Gap(levels, errors, float(mean), float(error))


def _difference(train: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    errors = np.sqrt(sum(one.var(axis=0, ddof=1) / len(one) for one in (train, held_out)))
    return held_out.mean(0) - train.mean(0), errors


def summarise(sigmas: np.ndarray, weights: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> Result:
    """Return the result of squared errors f64[images,levels] with their weights [levels]; its value is the mean gap."""
    weighted = {"training": weights * train, "held-out": weights * held_out}
    found = gap(weighted["training"], weighted["held-out"])
    plain = {"training": train, "held-out": held_out}
    half = NORMAL * found.error
    return Result(
        kind="loss",
        name="heldout_gap",
        value=found.mean,
        interval=(found.mean - half, found.mean + half),
        lines=tuple(_lines(sigmas, weighted, found)),
        tables=(_table(sigmas, weights, weighted, plain, found),),
        curves=(
            _curve("Weighted loss by noise level", "squared error / c_out^2, per element", sigmas, weighted),
            _curve("Squared error by noise level", "squared error, per element", sigmas, plain, log_y=True),
        ),
        about={
            "weight": "1 / c_out(sigma)^2",
            "train_num": len(train),
            "test_num": len(held_out),
            "train_loss": float(weighted["training"].mean()),
            "test_loss": float(weighted["held-out"].mean()),
            "sigmas": sigmas.tolist(),
            "gap_sigmas": found.mean_z,
            "overfits": bool(found.overfits),
        },
    )


def _table(sigmas, weights, weighted, plain, found: Gap) -> Table:
    columns = (
        "sigma",
        "weight",
        "train error",
        "held-out error",
        "train loss",
        "held-out loss",
        "gap",
        "+-",
        "gap / SE",
    )
    means = [[one[name].mean(0) for name in ("training", "held-out")] for one in (plain, weighted)]
    rows = [
        tuple(map(float, values))
        for values in zip(
            sigmas, weights, *means[0], *means[1], found.levels, NORMAL * found.errors, found.z, strict=True
        )
    ]
    overall = tuple(float(one.mean()) for one in means[1])
    rows.append(("mean", None, None, None, *overall, found.mean, NORMAL * found.error, found.mean_z))
    return Table("Per element: squared error, and loss = weight x squared error", columns, tuple(rows))


def _lines(sigmas: np.ndarray, weighted: dict[str, np.ndarray], found: Gap) -> list[str]:
    worst, base = int(found.z.argmax()), float(weighted["training"].mean())
    most = f"{found.z[worst]:.1f} at sigma {sigmas[worst]:.3g}"
    mean = f"{found.mean_z:.1f} standard errors in the mean over noise levels, at most {most}"
    seen = f"{100 * found.mean / base:+.1f} % of the training loss"
    if found.overfits:
        return [f"overfitting: held-out images have a higher loss, by {seen}; {mean}"]
    limit = 100 * (found.threshold + POWER) * found.error / base
    return [f"no overfitting seen: the gap is {seen}; {mean}. One of {limit:.2g} % would be seen in 4 of 5 cases"]


def _curve(title: str, y: str, sigmas: np.ndarray, values: dict[str, np.ndarray], log_y: bool = False) -> Curve:
    series = []
    for name, one in values.items():
        mean, half = one.mean(0), NORMAL * one.std(0, ddof=1) / math.sqrt(len(one))
        points = tuple(zip(sigmas.tolist(), mean.tolist(), strict=True))
        series.append(Series(name, points, tuple(zip((mean - half).tolist(), (mean + half).tolist(), strict=True))))
    return Curve(title, "sigma", y, tuple(series), log_x=True, log_y=log_y)
