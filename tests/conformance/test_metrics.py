"""The FID Inception and the metrics of given features against recorded values."""

import functools

import numpy as np
import pytest
import torch

from elucid.metrics.frechet import frechet_distance
from elucid.metrics.inception_network import InceptionV3
from elucid.metrics.measures.inception_score import inception_score
from elucid.metrics.measures.kernel import kernel_distance
from elucid.metrics.measures.neighbours import neighbourhoods
from elucid.metrics.statistics import FeatureStatistics
from tests import vectors
from tests.inception import state as inception_state

TOLERANCE_FEATURES = 1e-5
TOLERANCE_DISTANCE = 1e-6


@functools.cache
def inception(salt: str, path) -> InceptionV3:
    description, _ = vectors.load(path)
    network = InceptionV3()
    network.load_state_dict(inception_state(salt, description["state"]), strict=True)
    return network.for_inference()


def inception_cases():
    for path in vectors.cases("metrics/inception*"):
        _, arrays = vectors.load(path)
        for key in arrays:
            if ":" in key:
                yield pytest.param(path, key, id=f"{path.stem}-{key}")


@functools.cache
def all_layers(path, index: str) -> dict[str, torch.Tensor]:
    description, arrays = vectors.load(path)
    names = tuple(key.split(":")[0] for key in arrays if key.endswith(f":{index}"))
    with torch.inference_mode():
        return inception(description["salt"], path)(torch.from_numpy(arrays[f"images{index}"]), names)


@pytest.mark.parametrize("path, key", list(inception_cases()))
def test_inception_features(path, key):
    layer, index = key.split(":")
    _, arrays = vectors.load(path)
    assert vectors.relative_error(all_layers(path, index)[layer], arrays[key]) < TOLERANCE_FEATURES


def distance_cases():
    for path in vectors.cases("metrics/*"):
        description, _ = vectors.load(path)
        for index, case in enumerate(description.get("frechet", [])):
            yield pytest.param(path, case, id=f"{path.stem}-{index}")


@pytest.mark.parametrize("path, case", list(distance_cases()))
@pytest.mark.parametrize("swapped", [False, True])
def test_frechet_distance(path, case, swapped):
    _, arrays = vectors.load(path)
    sides = []
    for name in case["features"]:
        statistics = FeatureStatistics(arrays[name].shape[1])
        for part in np.array_split(arrays[name], 7):
            statistics.update(torch.from_numpy(part))
        sides += [statistics.mean, statistics.covariance]
    if swapped:
        sides = sides[2:] + sides[:2]
    assert frechet_distance(*sides) == pytest.approx(case["frechet_distance"], rel=TOLERANCE_DISTANCE)


def recorded(key: str):
    """Cases of one metric: a description has one or a list of them."""
    for path in vectors.cases("metrics/*"):
        found = vectors.load(path)[0].get(key, [])
        for index, case in enumerate(found if isinstance(found, list) else [found]):
            yield pytest.param(path, case, id=f"{path.stem}-{index}")


def named(arrays, name: str) -> torch.Tensor:
    """An array, or its first rows: `b0[:500]`."""
    key, _, rows = name.rstrip("]").partition("[:")
    return torch.from_numpy(arrays[key][: int(rows)] if rows else arrays[key])


@pytest.mark.parametrize("path, case", list(recorded("precision_recall")))
def test_precision_and_recall(path, case):
    _, arrays = vectors.load(path)
    assert case["neighborhood"] == 3
    around = neighbourhoods(*(named(arrays, case["features"][side]) for side in ("reference", "generated")), k=3)
    precision, recall = around.precision, around.recall
    assert precision == pytest.approx(case["precision"], rel=TOLERANCE_DISTANCE)
    assert recall == pytest.approx(case["recall"], rel=TOLERANCE_DISTANCE)
    assert 2 * precision * recall / (precision + recall) == pytest.approx(case["f_score"], rel=TOLERANCE_DISTANCE)


@pytest.mark.parametrize("path, case", list(recorded("kernel_inception_distance")))
def test_kernel_distance(path, case):
    _, arrays = vectors.load(path)
    assert (case["kernel"], case["estimator"]) == ("(x.y/d + 1)^3", "unbiased")
    value, _ = kernel_distance(*(named(arrays, name) for name in case["features"]))
    assert value == pytest.approx(case["value"], rel=TOLERANCE_DISTANCE)


@pytest.mark.parametrize("path, case", list(recorded("inception_score")))
def test_inception_score(path, case):
    _, arrays = vectors.load(path)
    assert not case["shuffle"]
    value, scores = inception_score(torch.from_numpy(arrays["logits"]), case["splits"])
    assert value == pytest.approx(case["inception_score_mean"], rel=TOLERANCE_DISTANCE)
    assert float(scores.std(correction=0)) == pytest.approx(case["inception_score_std"], rel=TOLERANCE_DISTANCE)
