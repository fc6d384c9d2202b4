"""Detectors: the same features on every machine, for any batch, and clear words for weights that are none."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from sklearn.datasets import load_digits

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.metrics import inception
from elucid.metrics.detectors import full_precision, make_detector
from elucid.metrics.frechet import frechet_distance
from elucid.metrics.images import feature_statistics
from elucid.metrics.inception_network import resize_bilinear_tf1
from tests import scripts

CPU = torch.device("cpu")


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8))


def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.images / 16 * 255).round().astype(np.uint8)[:, np.newaxis], data.target


def test_random_weights_never_change():
    """The recorded distances of others depend on it: a change of design needs another name."""
    expected = "1d96cbc28fd9083136ee8703fd82550bfffbe393de1cfedb88af8862bc9d5d90"
    assert make_detector("random", CPU).sha256 == expected


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (32, 32), (40, 24), (100, 100)])
def test_random_takes_any_size_and_does_not_see_the_batch(shape):
    detector, images = make_detector("random", CPU), noise(6, 3, *shape)
    together = detector(images)
    assert together.shape == (6, detector.dim) and together.dtype == torch.float32
    alone = torch.cat([detector(image[None]) for image in images])
    assert (together - alone).norm() < 1e-5 * together.norm()


def test_gray_images_count_as_rgb_of_equal_channels():
    detector, images = make_detector("random", CPU), noise(2, 1, 16, 16)
    torch.testing.assert_close(detector(images), detector(images.expand(-1, 3, -1, -1)), rtol=0, atol=0)


@pytest.mark.parametrize(
    "images, reason",
    [(noise(1, 3, 7, 16), "at least"), (noise(1, 4, 16, 16), "channels"), (noise(1, 3, 16, 16).float(), "uint8")],
)
def test_wrong_images_are_refused(images, reason):
    with pytest.raises(UserError, match=reason):
        make_detector("random", CPU)(images)


def test_random_distance_grows_with_the_damage():
    """Held-out digits are nearest; noise, blur and lost classes are the farther, the worse they are."""
    images, labels = digits()
    order = np.random.RandomState(0).permutation(len(images))
    real, held = torch.from_numpy(images[order[:400]]), torch.from_numpy(images[order[400:800]])
    labels = labels[order[400:800]]
    detector = make_detector("random", CPU)

    def distance(other: torch.Tensor) -> float:
        a, b = (feature_statistics(detector, x.split(256), len(x)) for x in (real, other))
        return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)

    def noisy(sigma: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return (held + sigma * torch.randn(held.shape, generator=generator)).clamp(0, 255).to(torch.uint8)

    levels = [distance(held)] + [distance(noisy(sigma)) for sigma in (20, 60, 180)]
    assert levels == sorted(levels) and levels[1] > 1.1 * levels[0] and levels[3] > 10 * levels[0]
    assert distance(held[torch.from_numpy(labels < 5)]) > 3 * levels[0]


def test_detector_from_outside(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom elucid.metrics.detectors import Detector\n\n"
        "class Mean(Detector):\n    name, dim, sha256, resize = 'mean', 3, '0', 'none'\n"
        "    def __init__(self, device, weights):\n        self.device = device\n"
        "    def features(self, images):\n        return images.float().mean((2, 3))\n"
    )
    detector = make_detector(f"{tmp_path}/mine.py:Mean", CPU)
    assert detector(torch.full((2, 1, 4, 4), 7, dtype=torch.uint8)).tolist() == [[7, 7, 7]] * 2
    with pytest.raises(UserError, match="random"):
        make_detector("randon", CPU)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_full_precision_lends_and_returns_the_setting(precision):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        torch.set_float32_matmul_precision(precision)
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before[0])
    assert torch.backends.cudnn.enabled and torch.backends.cudnn.benchmark == before[1]


NEWER = [
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cudnn.fp32_precision = 'ieee'",
]
PRECISION = """
import torch
from elucid.metrics.detectors import full_precision

def settings():
    parts = (torch.backends, torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn,
             torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn)
    return [one.fp32_precision for one in parts]

for one in {settings}:
    torch.backends.fp32_precision = "none"
    exec(one)
    before = settings()
    with full_precision():
        assert set(settings()[1:]) == {{"ieee"}}, (one, settings())
    assert settings() == before, (one, before, settings())
"""


def test_full_precision_beside_libraries_that_use_the_newer_interface():
    """In a process of its own, as torch refuses the older one from then on."""
    code = PRECISION.format(settings=NEWER)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(scripts.ROOT)})


@pytest.mark.parametrize("height, width", [(32, 32), (64, 48), (299, 32), (400, 512)])
def test_resize_is_tensorflow_1(height, width):
    """Sampling at destination * in / out between the two nearest below and above, no half-pixel shift, no prefilter."""
    images = noise(2, 3, height, width).numpy().astype(np.float64)
    expected = images
    for axis, length in ((2, height), (3, width)):
        source = np.arange(299) * length / 299
        low = np.floor(source).astype(int)
        high, share = np.minimum(low + 1, length - 1), source - low
        share = share[:, None] if axis == 2 else share
        expected = expected.take(low, axis) * (1 - share) + expected.take(high, axis) * share
    resized = resize_bilinear_tf1(torch.from_numpy(images).to(torch.uint8), 299)
    np.testing.assert_allclose(resized, expected, atol=0.02)


def no_network(*request, **options):
    raise requests.ConnectionError("no route")


def test_missing_weights_say_the_mend(tmp_path, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    monkeypatch.setattr(requests.Session, "send", no_network)
    with pytest.raises(UserError, match=f"{inception.WEIGHTS_FILE}.*`detector_weights`=FILE.*`detector`=random"):
        make_detector("inception", CPU)


def test_download_with_another_hash_is_removed(tmp_path, monkeypatch):
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"something else")
    monkeypatch.setattr(files, "fetch", lambda name, what: wrong)
    with pytest.raises(UserError, match="SHA-256.*`detector_weights`"):
        make_detector("inception", CPU)
    assert not wrong.exists()


class Callable:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"garbage", "cannot be read"),
        (b"", "cannot be read"),
        ({"fc.weight": torch.zeros(3)}, "not the FID"),
        ([torch.zeros(3)], "no state dict"),
        ({"x": Callable()}, "cannot be read"),
    ],
)
def test_weights_that_are_none(tmp_path, capsys, content, reason):
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=f"weights.pth.*{reason}.*{inception.WEIGHTS_FILE}") as error:
        inception.load_network(Path(path))
    assert "\n" not in str(error.value) and "code ran" not in capsys.readouterr().out
