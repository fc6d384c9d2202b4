"""Crops keep the middle and the proportions; sizes come out as asked."""

import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.preparation.transforms import apply, result_size


def ramp(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards, both by pixel position."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))


@pytest.mark.parametrize("source", [(100, 60), (60, 100), (33, 47)])
@pytest.mark.parametrize("target", [(16, 16), (32, 16), (8, 24)])
def test_center_crop_keeps_middle_and_proportions(source, target):
    result = apply("center-crop", ramp(*source), target)
    assert result.size == target
    pixels = np.asarray(result).astype(float)
    scale = min(source[0] / target[0], source[1] / target[1])
    middle = pixels.mean((0, 1))[:2]
    assert np.abs(middle - (np.array(source) - 1) / 2).max() <= 1
    steps = np.diff(pixels[..., 0], axis=1).mean(), np.diff(pixels[..., 1], axis=0).mean()
    assert np.abs(np.array(steps) - scale).max() < 0.15 * scale


def test_dhariwal_is_box_halving_where_the_sides_are_powers_of_two():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    result = np.asarray(apply("center-crop-dhariwal", Image.fromarray(pixels), (16, 16)))
    assert (
        np.abs(result - pixels.reshape(16, 4, 16, 4).mean((1, 3))).max() <= 2
    )  # four roundings to 8 bits, each by at most half


@pytest.mark.parametrize("source", [(100, 60), (60, 100), (15, 20), (16, 16), (31, 200)])
def test_dhariwal_cuts_the_middle_square(source):
    result = apply("center-crop-dhariwal", ramp(*source), (16, 16))
    assert result.size == (16, 16)
    assert np.abs(np.asarray(result).mean((0, 1))[:2] - (np.array(source) - 1) / 2).max() <= 3


def test_wide_crop_pads_to_a_square_and_leaves_out_small_pictures():
    pixels = np.asarray(apply("center-crop-wide", Image.new("RGB", (64, 40), (9, 9, 9)), (32, 16)))
    assert pixels.shape == (32, 32, 3)
    assert (pixels[8:24] == 9).all() and not pixels[:8].any() and not pixels[24:].any()
    assert apply("center-crop-wide", Image.new("RGB", (31, 31)), (32, 16)) is None  # narrow
    assert apply("center-crop-wide", Image.new("RGB", (64, 20)), (32, 16)) is None  # flat


@pytest.mark.parametrize(
    ("name", "resolution"),
    [("center-crop", None), ("center-crop-dhariwal", (32, 16)), ("center-crop-wide", (16, 32))],
)
def test_options_that_cannot_go_together_are_refused(name, resolution):
    with pytest.raises(UserError, match=f"{name}.*--resolution|--resolution.*{name}|{name}"):
        result_size(name, resolution)
