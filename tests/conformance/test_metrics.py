"""The FID Inception and the Fréchet distance against recorded values."""

import functools

import numpy as np
import pytest
import torch

from elucid.metrics.frechet import frechet_distance
from elucid.metrics.inception_network import InceptionV3
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
