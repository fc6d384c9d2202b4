"""EDM2's sampler with a guiding network, and what a seed draws, equal the reference."""

import zlib

import numpy as np
import pytest
import torch

from elucid.torch_utils.rng import PerSeedRandom
from elucid.training.guidance.autoguidance import AutoGuidance
from elucid.training.noise.schedules import Karras
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.samplers.edm2 import EDM2Sampler
from elucid.training.snapshots.snapshot import load_snapshot
from tests import published, vectors

RUNS = [
    pytest.param(path, index, id=f"{path.stem}-{index}")
    for path in vectors.cases("edm2/sampler*")
    for index in range(len(vectors.load(path)[0]["runs"]))
]
LEVELS = ("num_steps", "sigma_min", "sigma_max", "rho")


def recorded_noise(salt, wanted_dtype):
    """Noise of step k, counted by calls, in the type of the sampler's state."""
    calls = []

    def noise(x):
        assert x.dtype == wanted_dtype
        seed = zlib.crc32(f"{salt}:input:step{len(calls)}".encode())
        calls.append(seed)
        return torch.from_numpy(np.random.RandomState(seed).randn(*x.shape)).to(x.dtype)

    return noise, calls


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A network of a case, read from a file of EDM2's form with weights that are not rounded."""
    monkeypatch.setattr(torch.Tensor, "half", lambda self: self)

    def read(case, prefix):
        kwargs, shapes = case["network" if prefix == "network" else prefix], case["parameters"]
        if prefix != "network":
            shapes = case[f"{prefix}_parameters"]
        content = published.edm2_checkpoint(case["salt"], kwargs, shapes)
        path = tmp_path / f"{prefix}.pkl"
        path.write_bytes(published.dumps(content))
        return load_snapshot(path).ema

    return read


@pytest.mark.parametrize("path, index", RUNS)
@torch.no_grad()
def test_run(path, index, network):
    case, there = vectors.load(path)
    run = case["runs"][index]
    options = dict(run["options"])
    guidance, dtype = options.pop("guidance", 1), options.get("dtype", "float32")
    denoise = network(case, "network")
    if run["guide"]:
        denoise = AutoGuidance(denoise, network(case, f"guide_{run['guide']}"), guidance)
    bound = BoundDenoiser(denoise, {"labels": torch.from_numpy(there["class_labels"])})
    sigmas = Karras(**{name: options.pop(name) for name in LEVELS if name in options})(bound)
    noise, calls = recorded_noise(case["salt"], getattr(torch, dtype))
    x = EDM2Sampler(**options)(bound, torch.from_numpy(there["noise"]) * sigmas[0], sigmas, noise)
    assert x.dtype == getattr(torch, dtype)
    assert vectors.relative_error(x, there[run["out"]]) < 1e-5
    assert len(calls) == run["noise_calls"]


@pytest.mark.parametrize("path", vectors.cases("edm2/seeds*"), ids=lambda path: path.stem)
def test_seeds(path):
    case, there = vectors.load(path)
    random = PerSeedRandom(case["seeds"])
    shape = there["latents"].shape[1:]
    assert np.array_equal(random.randn(shape).numpy(), there["latents"])
    assert np.array_equal(random.randint(1000).numpy(), there["classes"])
    assert np.array_equal(random.randn(shape).numpy(), there["later"])
