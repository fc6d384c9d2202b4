"""Detectors of arrays: what they get, what others refuse, and a distance from a data set to its file."""

import numpy as np
import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import make_detector
from elucid.metrics.images import feature_statistics, read_batches
from elucid.training.data.base import Dataset
from tests import scripts

CPU = torch.device("cpu")
MEANS = """
from elucid.metrics.detectors import Detector

class Means(Detector):
    name, dim, sha256, resize, takes = "means", 4, "none", "none", "arrays"
    seen = []

    def __init__(self, device, weights=None):
        self.device = device

    def features(self, images):
        self.seen.append((images.dtype, tuple(images.shape[1:])))
        return images.mean((2, 3))

class Wrong(Means):
    takes = "sounds"
"""


KINDS = ["floats", "four channels", "uint16"]


class Fields(Dataset):
    """Arrays in memory, as those of a file are read."""

    def __init__(self, arrays: np.ndarray):
        self.values, self.path, self.name = arrays, "fields", "fields"
        self.channels, self.resolution, self.arrays = arrays.shape[1], arrays.shape[2:], {}

    def __len__(self) -> int:
        return len(self.values)

    def image(self, index: int) -> np.ndarray:
        return self.values[index]

    def image_name(self, index: int) -> str:
        return f"{index:06d}.npy"

    def encoded(self, index: int) -> bytes:
        return self.values[index].tobytes()


def fields(dtype, num: int = 40) -> np.ndarray:
    return (1000 * np.random.default_rng(0).random((num, 4, 3, 5))).astype(dtype)


@pytest.fixture
def means(tmp_path):
    (tmp_path / "mine.py").write_text(MEANS)
    return f"{tmp_path}/mine.py:Means"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32])
def test_arrays_arrive_in_their_own_units(means, dtype):
    detector, arrays = make_detector(means, CPU), fields(dtype)
    detector.seen.clear()
    found = feature_statistics(detector, read_batches(Fields(arrays), 8, 2), len(arrays))
    assert set(detector.seen) == {(torch.float32, (4, 3, 5))}
    expected = arrays.astype(np.float64).mean((2, 3))
    np.testing.assert_allclose(found.mean.numpy(), expected.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(expected.T), rtol=1e-3)


@pytest.mark.parametrize("arrays", [fields(np.float32), fields(np.uint8), fields(np.uint16)[:, :3]], ids=KINDS)
def test_detectors_of_pictures_refuse_arrays_in_one_line(arrays):
    with pytest.raises(UserError, match="`detector`=random .*file.py:Name") as error:
        feature_statistics(make_detector("random", CPU), read_batches(Fields(arrays), 8, 2), len(arrays))
    assert "\n" not in str(error.value)


def test_values_that_are_not_finite_have_a_place(means):
    arrays = fields(np.float32)
    arrays[17, 2, 1, 4] = np.nan
    with pytest.raises(UserError, match="channel 2, row 1, column 4"):
        feature_statistics(make_detector(means, CPU), read_batches(Fields(arrays), 8, 2), len(arrays))


def test_takes_is_one_of_two(means):
    with pytest.raises(UserError, match="pictures, arrays"):
        make_detector(means.replace("Means", "Wrong"), CPU)


def test_a_distance_of_arrays_against_a_reference_of_arrays(means, tmp_path, monkeypatch, capsys):
    """From `fid.py ref` to `fid.py calc`, of a folder of arrays and one file of all."""
    (tmp_path / "real").mkdir()
    for index, one in enumerate(fields(np.float32)):
        np.save(tmp_path / f"real/{index:06d}.npy", one)
    np.savez(tmp_path / "samples.npz", samples=fields(np.float32) + 3)

    def call(*args, code: int = 0) -> str:
        found, out, err = scripts.call(monkeypatch, capsys, "fid.py", *args, "--device=cpu")
        assert found == code, err
        assert not code or err.count("\n") == 1
        return err if code else out

    real, samples, file = f"{tmp_path}/real", f"--images={tmp_path}/samples.npz", f"{tmp_path}/real.npz"
    assert "features of 40 images" in call("ref", f"--data={real}", f"--dest={file}", f"--detector={means}")
    for ref in (file, real):
        out = call("calc", samples, f"--ref={ref}", f"--detector={means}", "--num=40")
        assert float(out.splitlines()[-1]) == pytest.approx(4 * 3**2, rel=1e-4)  # means 3 apart in 4 channels
        assert "format npy" in out and "shape 4x3x5" in out
    refused = "holds arrays, and --detector=random takes pictures"
    assert refused in call("ref", f"--data={real}", f"--dest={file}", "--detector=random", code=2)
    assert refused in call("calc", samples, f"--ref={real}", "--detector=random", "--num=40", code=2)
