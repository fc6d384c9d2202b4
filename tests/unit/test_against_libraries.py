"""The metrics of features against kept libraries: their recorded numbers, and themselves where they import."""

import functools
import json
from pathlib import Path

import pytest
import torch

from elucid.metrics.measures.inception_score import inception_score
from elucid.metrics.measures.kernel import kernel_distance
from elucid.metrics.measures.neighbours import neighbourhoods
from tests.libraries import LIBRARIES, features

RECORDED = json.loads((Path(__file__).parent.parent / "vectors/libraries.json").read_text())


@functools.cache
def ours() -> dict[str, float]:
    made, real, logits = map(torch.from_numpy, features())
    around = neighbourhoods(real, made)
    shares = {name: getattr(around, name) for name in ("precision", "recall", "density", "coverage")}
    return {**shares, "kid": kernel_distance(made, real)[0], "is": inception_score(logits)[0]}


@pytest.mark.parametrize("library", LIBRARIES)
def test_recorded_numbers(library):
    recorded = RECORDED["values"][library]
    assert recorded and {name: ours()[name] for name in recorded} == pytest.approx(recorded, rel=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_library_itself(library):
    try:
        values = LIBRARIES[library]()
    except (ImportError, RuntimeError) as error:  # torchvision of another torch raises the latter
        pytest.skip(f"{library} does not import: {error}")
    assert {name: ours()[name] for name in values} == pytest.approx(values, rel=1e-6)


def test_the_case_tells_the_metrics_apart():
    """A mode is missing and one is added: no value is 0 or 1, where a wrong one would pass."""
    assert all(0.2 < value < 0.95 for name, value in ours().items() if name not in ("kid", "is"))
