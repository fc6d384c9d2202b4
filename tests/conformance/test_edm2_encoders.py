"""EDM2's encoders equal the reference: latents sampled from stored moments, latents to pixels, and RGB both ways."""

import json

import pytest
import torch
from torch import nn

from elucid.training.encoders.rgb import RGB
from elucid.training.encoders.statistics import ChannelStatistics
from elucid.training.encoders.vae import VAE
from elucid.training.registry.components import make
from elucid.training.registry.names import OPTIONS
from tests import vectors

CASES = vectors.cases("edm2/encoders*")
PATHS = pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)


def tensors_of(path):
    case, arrays = vectors.load(path)
    return case, {name: torch.from_numpy(array) for name, array in arrays.items()}


class Decoded:
    def __init__(self, sample):
        self.sample = sample


class Stand(nn.Module):
    """The case's stand-in for the decoder; keeps what it was given."""

    def decode(self, latents):
        self.given = latents
        return Decoded(latents[:, :3] / 10 + 0.3)


@pytest.fixture
def edm2_vae(tmp_path) -> VAE:
    config = {"_class_name": "AutoencoderKL", "block_out_channels": [4, 4, 4, 4]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pytest.importorskip("diffusers")
    encoder = make({"name": "edm2_vae", "model": str(tmp_path)}, "encoder")
    encoder._autoencoder = Stand()
    return encoder


@PATHS
def test_latents(path, edm2_vae, monkeypatch):
    case, arrays = tensors_of(path)
    monkeypatch.setattr(torch, "randn_like", lambda like: arrays["draw"])
    assert vectors.relative_error(edm2_vae.encode(arrays["raw"]), arrays["z"]) < 1e-6
    pixels = edm2_vae.decode(arrays["z"])
    assert vectors.relative_error(edm2_vae._autoencoder.given, arrays["decoder_in"]) < 1e-6
    assert pixels.dtype == torch.uint8 and torch.equal(pixels, arrays["pixels"])


@PATHS
def test_options(path):
    case, arrays = tensors_of(path)
    vae, options = case["vae"], OPTIONS["encoder"]["edm2_vae"]
    assert options["model"] == vae["name"] and options["final_std"] == vae["final_std"] and vae["final_mean"] == 0
    assert (options["mean"], options["std"]) == (vae["raw_mean"], vae["raw_std"])
    statistics = ChannelStatistics.of(options)
    assert vectors.relative_error(torch.tensor(statistics.factors), arrays["scale"]) < 1e-6
    shift = statistics.normalise(torch.zeros(1, 4, 1, 1)).flatten()
    assert vectors.relative_error(shift, arrays["bias"]) < 1e-6


@PATHS
def test_rgb(path):
    _, arrays = tensors_of(path)
    assert vectors.relative_error(RGB().encode(arrays["rgb_u8"]), arrays["rgb_encoded"]) < 1e-6
    decoded = RGB().decode(arrays["rgb_float"])[:, : arrays["rgb_decoded"].shape[1]]
    assert torch.equal(decoded, arrays["rgb_decoded"])
