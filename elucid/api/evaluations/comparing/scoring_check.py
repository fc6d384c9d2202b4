"""Checks that images can be scored as planned, before hours of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from elucid.api.evaluator import Evaluator
from elucid.metrics.detectors import make_detector
from elucid.metrics.measures.collect import Wanted, require_outputs
from elucid.metrics.measures.evaluate import require_counts
from elucid.torch_utils import distributed


def require_scoring(
    refs: Mapping[str, Any], metrics: Sequence[str], detector: str | None, weights: str | None, num: int
) -> None:
    """Raise UserError if detector, reference, metrics or number of images do not go together.

    `refs` maps reference files to None, or to a command that makes them.
    """
    place = distributed.choose_device("cpu")
    if any(made is not None for made in refs.values()):
        detectors = [make_detector(name, place, weights) for name in (detector or "").split(",")]
        for one in detectors:
            require_outputs(one, Wanted.of(metrics, False))
    else:
        detectors = Evaluator(list(refs), metrics, detector, weights, device=place).detectors
    for one in detectors:
        require_counts(metrics, num, "generated", one.dim)
