"""On CUDA features and scores are those of the CPU up to rounding; equal to the bit they are on one CPU only."""

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import make_detector
from elucid.metrics.frechet import frechet_distance
from elucid.metrics.statistics import FeatureStatistics
from tests.cuda.runs import CPU, DEVICE

FEATURES, DISTANCE = 1e-3, 1e-4
"""Relative errors."""


def detector(name: str, device: torch.device):
    try:
        return make_detector(name, device)
    except UserError as error:
        if name == "random":
            raise
        pytest.skip(str(error))


def images(seed: int, count: int = 96) -> torch.Tensor:
    """Smooth colours, u8[count,3,32,32]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4 + 2 * seed, 4 + 2 * seed, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


@pytest.mark.parametrize("name", ["random", "efflite0"])
def test_features_and_distance_are_those_of_the_cpu(name):
    """Also where training has allowed TF32."""
    features, distances = [], []
    for device in (CPU, DEVICE):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        made, sets = detector(name, device), []
        for seed in range(2):
            batches = [made(part) for part in images(seed).split(32)]
            statistics = FeatureStatistics(made.dim, device)
            for one in batches:
                statistics.update(one)
            sets.append(statistics)
        features.append(torch.cat(batches).double().cpu())
        (one, other) = sets
        distances.append(frechet_distance(one.mean, one.covariance, other.mean, other.covariance))
    assert (features[0] - features[1]).norm() <= FEATURES * features[0].norm()
    assert distances[0] > 0 and distances[1] == pytest.approx(distances[0], rel=DISTANCE)


@pytest.mark.parametrize("name", ["random", "efflite0"])
def test_other_batches_give_the_same_features(name):
    """Up to rounding."""
    made = detector(name, DEVICE)
    whole, parts = made(images(1)), torch.cat([made(part) for part in images(1).split(7)])
    assert (whole - parts).norm() <= FEATURES * whole.norm()
