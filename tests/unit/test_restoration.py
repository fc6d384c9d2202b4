"""PSNR and SSIM: definitions, ranges of types, what is exact, and what is refused."""

import csv
import math
import sys

import numpy as np
import pytest

from elucid.api.evaluations.arrays.restoration import restoration
from elucid.dnnlib.errors import UserError
from elucid.evaluation.similarity import psnr, range_of, require_ssim, ssim


def pictures(seed: int, num: int = 12, channels: int = 3, size=(16, 20)) -> np.ndarray:
    random = np.random.default_rng(seed)
    smooth = random.integers(30, 200, (num, channels, 4, 5)).repeat(4, -2).repeat(4, -1)
    return np.clip(smooth + random.normal(size=(num, channels, *size)) * 10, 0, 255).astype(np.uint8)


def degraded(truth: np.ndarray, deviation: float, seed: int = 9) -> np.ndarray:
    return np.clip(truth + np.random.default_rng(seed).normal(size=truth.shape) * deviation, 0, 255).astype(np.uint8)


def test_psnr_is_its_definition_and_uint8_does_not_wrap():
    truth, image = np.full((1, 4, 4), 3, np.uint8), np.full((1, 4, 4), 250, np.uint8)
    assert psnr(image, truth, np.array([255.0])) == pytest.approx(20 * math.log10(255 / 247))
    assert psnr(truth, image, np.array([255.0])) == psnr(image, truth, np.array([255.0]))
    assert psnr(truth, truth, np.array([255.0])) == math.inf
    both = np.stack([truth[0], truth[0]]).astype(float)
    spans, error = np.array([10.0, 100.0]), np.array([1.0, 10.0])[:, None, None]  # each a tenth of its range
    assert psnr(both + error, both, spans) == pytest.approx(20)


def test_ssim_is_its_formula_and_falls_with_the_damage():
    """Of constant images only the first term of Wang et al. 2004, eq. 12 is not 1: that of the means, eq. 6."""
    pytest.importorskip("skimage")
    truth = pictures(0)[0]
    assert ssim(truth, truth, np.full(3, 255.0)) == pytest.approx(1)
    flat, c1 = np.full((1, 16, 16), 100.0), (0.01 * 255) ** 2
    expected = (2 * 100 * 140 + c1) / (100**2 + 140**2 + c1)
    assert ssim(flat + 40, flat, np.array([255.0])) == pytest.approx(expected)
    lower = [ssim(degraded(truth, deviation), truth, np.full(3, 255.0)) for deviation in (5, 20, 60)]
    assert 1 > lower[0] > lower[1] > lower[2] > 0
    line = np.random.default_rng(0).random((2, 1, 32))
    assert ssim(line, line[:, :, ::-1], np.ones(2)) < 0.9 and ssim(line, line, np.ones(2)) == pytest.approx(1)


def test_ranges_are_those_of_integers_and_asked_for_of_floats():
    assert range_of(np.dtype("uint8"), None, 2).tolist() == [255, 255]
    assert range_of(np.dtype("uint16"), None, 1).tolist() == [65535]
    assert range_of(np.dtype("float32"), [2.0], 3).tolist() == [2, 2, 2]
    for given in (None, [1.0, 2.0], [0.0], [math.nan]):
        with pytest.raises(UserError, match="`data_range`"):
            range_of(np.dtype("float32"), given, 3)


def test_means_intervals_and_each_image(tmp_path):
    truth = pictures(1)
    images = degraded(truth.repeat(2, 0), 20)
    images[6] = truth[3]
    result = restoration(
        images, truth, members=2, ssim=False, per_image=tmp_path / "each.csv", dest=tmp_path / "r.json"
    )
    with open(tmp_path / "each.csv") as file:
        each = [float(row["PSNR"]) for row in csv.DictReader(file)]
    assert len(each) == 24 and each[6] == math.inf and "1 images are exactly" in result.text()
    finite = [one for one in each if one < math.inf]
    assert result.value == pytest.approx(np.mean(finite)) and result.interval[0] < result.value < result.interval[1]
    (_, name, value, low, high, least), of_mean = result.tables[0].rows
    assert name == "PSNR, dB" and value == result.value and least == min(finite)
    assert of_mean[0] == "mean of 2 members" and 2 < of_mean[2] - value < 5  # half the error: 3 dB
    assert result.tables[1].rows[0] == (f"array[{int(np.argmin(each))}]", least)
    assert (tmp_path / "r.json").exists() and "Infinity" not in (tmp_path / "r.json").read_text()


def test_members_of_one_truth_do_not_narrow_the_interval():
    """Copies of the same restored images: as many images again, but no more information."""
    truth = pictures(2)
    image = degraded(truth, 20)
    alone = restoration(image, truth, ssim=False)
    copies = restoration(image.repeat(4, 0), truth, members=4, ssim=False)
    assert copies.value == pytest.approx(alone.value) and copies.interval == pytest.approx(alone.interval)


@pytest.mark.parametrize(
    "images, options, words",
    [
        (pictures(0).astype(np.float32), {"ssim": False}, "`data_range`"),
        (pictures(0, 11), {}, "11 conditions"),
        (pictures(0, 13), {"members": 2}, "no multiple"),
        (pictures(0)[:, :1], {}, "1x16x20"),
        (pictures(0)[..., :8, :], {}, "at least 11"),
        (pictures(0), {"ssim": False}, "exactly"),
    ],
    ids=["floats", "count", "multiple", "channels", "small", "the same"],
)
def test_what_is_refused(images, options, words):
    truth = pictures(0)
    truth = truth.astype(images.dtype) if images.dtype.kind == "f" else truth[..., : images.shape[2], :]
    with pytest.raises(UserError) as error:
        restoration(images, truth, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_without_scikit_image_ssim_says_how_to_get_or_avoid_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(UserError, match="scikit-image.*`ssim`=0"):
        require_ssim((3, 16, 16))
