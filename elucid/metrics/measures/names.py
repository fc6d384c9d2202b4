"""Names of the metrics and what each needs; imports no torch, so that the command line can check them at once."""

from collections.abc import Iterable
from dataclasses import dataclass

from elucid.dnnlib.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Needs:
    """What a metric needs: an `output` of the detector, whether its `rows` (not only their mean and covariance), and
    `of_reference`, what a reference must hold: "statistics", "rows" or "nothing"."""

    output: str
    rows: bool
    of_reference: str


METRICS = {
    "fid": Needs("features", False, "statistics"),
    "sfid": Needs("spatial", False, "statistics"),
    "fid_inf": Needs("features", True, "statistics"),
    "kid": Needs("features", True, "rows"),
    "mind": Needs("features", True, "rows"),
    "pr": Needs("features", True, "rows"),
    "dc": Needs("features", True, "rows"),
    "is": Needs("logits", True, "nothing"),
}
"""Fréchet distance, that of spatial features, that extrapolated to infinitely many images, kernel distance, Monge
inception distance, precision and recall, density and coverage, inception score."""


HIGHER_IS_BETTER = frozenset({"is", "precision", "recall", "density", "coverage"})
"""Metrics, by the names of their values, of which more is better; of all others less is."""


def metric_names(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names in a list, or in a text such as `fid,kid`, once each. Raises UserError for unknown ones."""
    names = given.split(",") if isinstance(given, str) else list(given)
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise UserError(f"`metrics` is empty; known: {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise UserError(f"unknown metric {name!r}{did_you_mean(name, METRICS)}; known: {', '.join(METRICS)}")
    return tuple(names)
