"""A data set's deviation, exact, and the noise levels that follow from it by the stated rule."""

import io
import json
import math
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from elucid.commands import dataset_tool
from elucid.dnnlib.errors import UserError
from elucid.preparation.noise_proposal import propose
from elucid.preparation.verify import verify
from elucid.training.data import npy
from elucid.training.data.base import Dataset
from elucid.training.data.dataset import open_dataset
from elucid.training.data.statistics import statistics

rng = np.random.default_rng(0)


def save(path, images: np.ndarray, encoder: dict | None = None):
    """A zip of images u8 [N,H,W] or [N,H,W,3], or of moments f32 [N,2C,h,w]."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, image in enumerate(images):
            buffer = io.BytesIO()
            if encoder is None:
                Image.fromarray(image).save(buffer, "PNG")
            data, suffix = (buffer.getvalue(), ".png") if encoder is None else (npy.to_npy(image), npy.SUFFIX)
            archive.writestr(f"{index:03}{suffix}", data)
        archive.writestr("dataset.json", json.dumps({"labels": None} | ({"encoder": encoder} if encoder else {})))
    return path


@pytest.mark.parametrize("shape", [(20, 8, 16), (20, 16, 8, 3)])
def test_the_statistics_are_those_of_the_whole_array(tmp_path, shape):
    images = rng.integers(40, 256, shape, dtype=np.uint8)
    dataset = open_dataset(save(tmp_path / "set.zip", images))
    seen = images.astype(np.float64) / 127.5 - 1
    expected = (seen.mean(), seen.std())
    np.testing.assert_allclose(statistics(dataset, progress=False), expected, rtol=1e-12)
    np.testing.assert_allclose(statistics(dataset, progress=False, workers=1), expected, rtol=1e-12)
    np.testing.assert_allclose(verify(tmp_path / "set.zip", progress=False).overall, expected, rtol=1e-12)


def test_a_small_deviation_beside_a_large_mean_is_exact(tmp_path):
    images = np.full((9, 16, 16), 255, dtype=np.uint8)
    images[0, 0, 0] = 254
    share = 1 / images.size
    _, std = statistics(open_dataset(save(tmp_path / "set.zip", images)), progress=False)
    assert std == pytest.approx(math.sqrt(share * (1 - share)) / 127.5, rel=1e-14)


def test_a_subset_has_its_own_statistics(tmp_path):
    images = rng.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    dataset = open_dataset(save(tmp_path / "set.zip", images), max_size=5)
    seen = np.stack([dataset.image(index) for index in range(5)]) / 127.5 - 1
    np.testing.assert_allclose(statistics(dataset, progress=False), (seen.mean(), seen.std()), rtol=1e-12)


def test_latents_are_counted_as_the_network_sees_them(tmp_path):
    moments = np.abs(rng.normal(3, 2, (50, 4, 8, 8))).astype(np.float32)
    about = {"name": "vae", "model": "m", "scale": 0.25, "sha256": "0" * 64}
    dataset = open_dataset(save(tmp_path / "latents.zip", moments, about), latents=True)
    mean, std = moments[:, :2].astype(np.float64), moments[:, 2:].astype(np.float64)
    samples = (mean + std * rng.standard_normal((200, *mean.shape))) * 0.25
    np.testing.assert_allclose(statistics(dataset, progress=False), (samples.mean(), samples.std()), rtol=5e-3)
    lines = "\n".join(verify(tmp_path / "latents.zip", progress=False).lines())
    assert "scaled latents" in lines and "latents are less smooth" in lines


def test_a_reader_of_other_numbers_is_refused_by_name():
    class Floats(Dataset):
        path, resolution, channels = "floats.h5", (2, 2), 1

        def __len__(self):
            return 3

        def image(self, index):
            return np.zeros((1, 2, 2), dtype=np.float32)

    with pytest.raises(UserError, match="floats.h5 has images of float32.*--set precond.sigma_data"):
        statistics(Floats(), progress=False)


@pytest.mark.parametrize("side", [8, 32, 64])
def test_up_to_64_pixels_the_numbers_are_edm_s(side):
    made = propose(side, 0.5)
    assert (made.P_mean, made.P_std, made.sigma_min, made.sigma_max) == (-1.2, 1.2, 0.002, 80)


def test_larger_pictures_and_other_deviations_shift_them():
    made = propose(256, 0.5)
    assert made.P_mean == pytest.approx(-1.2 + math.log(4)) and made.sigma_max == 320 and made.sigma_min == 0.002
    made = propose((32, 32), 0.25)
    assert made.P_mean == pytest.approx(-1.2 - math.log(2)) and (made.sigma_min, made.sigma_max) == (0.001, 40)
    assert made.P_std == 1.2
    both = propose(128, 1.0)
    assert both.P_mean == pytest.approx(-1.2 + math.log(4)) and (both.sigma_min, both.sigma_max) == (0.004, 320)
    assert propose((64, 256), 0.5) == propose(128, 0.5), "the noise left after averaging depends on the area"


@pytest.mark.parametrize(
    ("resolution", "sigma_data"), [(64, 0.0), (64, -1.0), (64, math.nan), (0, 0.5), (64, math.inf)]
)
def test_numbers_that_make_no_sense_are_refused(resolution, sigma_data):
    with pytest.raises(UserError, match="sigma_data"):
        propose(resolution, sigma_data)


def test_verify_prints_flags_that_set_the_numbers(tmp_path):
    images = np.zeros((2, 8, 128, 3), dtype=np.uint8)
    images[1] = 255
    path = save(tmp_path / "set.zip", images)
    result = CliRunner().invoke(dataset_tool.main, ["verify", f"--source={path}"])
    assert result.exit_code == 0 and "all channels together: mean 0.0000, std 1.0000 (in [-1, 1])" in result.output
    flags = [line.split("  ")[1] for line in result.output.splitlines() if line.startswith("  --")]
    assert flags == [
        "--set precond.sigma_data=1",
        "--set loss.noise.P_mean=-0.51",
        "--set loss.noise.P_std=1.2",
        "--sigma_min=0.004",
        "--sigma_max=160",
    ]
    assert "-1.2 + ln(max(1, 32/64)) + ln(1/0.5)" in result.output and "rule: EDM chose" in result.output


def test_pictures_without_any_difference_get_no_proposal(tmp_path):
    path = save(tmp_path / "set.zip", np.full((2, 8, 8), 7, dtype=np.uint8))
    lines = list(verify(path, progress=False).lines())
    assert any("all pixels are equal" in line for line in lines) and not any("--set" in line for line in lines)
