"""Every kind of picture comes out as a viewer would show it."""

import io

import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.preparation.images import GRAY, RGB, is_gray, normalise
from elucid.preparation.writer import encode_png
from elucid.training.data.pictures import header, load_picture

WHITE = (255, 255, 255)


def through_file(picture: Image.Image, kind: str = "PNG", **options) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return load_picture(buffer.getvalue(), "x")


def rgb(picture: Image.Image, background=WHITE) -> np.ndarray:
    return np.asarray(normalise(picture, RGB, background, "x"))


def test_palette_gives_colours_not_indices():
    pixels = np.array([[[255, 0, 0], [0, 128, 0]], [[0, 0, 255], [255, 0, 0]]], dtype=np.uint8)
    picture = through_file(Image.fromarray(pixels).quantize(4))
    assert picture.mode == "P" and not is_gray(picture)
    np.testing.assert_array_equal(rgb(picture), pixels)


def test_gray_palette_is_gray():
    picture = Image.frombytes("P", (2, 1), bytes([0, 1]))
    picture.putpalette([7, 7, 7, 200, 200, 200])
    picture = through_file(picture)
    assert picture.mode == "P" and is_gray(picture)
    np.testing.assert_array_equal(np.asarray(normalise(picture, GRAY, WHITE, "x")), [[7, 200]])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_the_background(mode):
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[..., :3] = 100
    pixels[0, :, 3] = [255, 0, 128 if mode != "P" else 255]
    picture = Image.fromarray(pixels)
    picture = picture.quantize(8) if mode == "P" else picture.convert(mode)
    picture = through_file(picture)
    assert picture.mode == mode
    half = 100 if mode == "P" else round(100 * 128 / 255 + 255 * 127 / 255)
    assert np.abs(rgb(picture)[0, :, 0].astype(int) - [100, 255, half]).max() <= 1
    assert rgb(picture, (0, 0, 0))[0, 1].tolist() == [0, 0, 0]


def test_opaque_alpha_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    np.testing.assert_array_equal(rgb(Image.fromarray(pixels)), pixels[..., :3])


def test_16_bit_gray_keeps_the_whole_range():
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    picture = through_file(Image.fromarray(values))
    assert is_gray(picture)
    np.testing.assert_array_equal(np.asarray(normalise(picture, GRAY, WHITE, "x")), [[0, 1, 128, 255]])


def test_cmyk_is_converted():
    picture = through_file(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert picture.mode == "CMYK"
    assert np.abs(rgb(picture).astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    stored = Image.new("L", (24, 8))
    stored.paste(255, (0, 0, 8, 8))  # a white square at the stored picture's top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "JPEG", quality=100, exif=exif)
    upright = np.asarray(load_picture(buffer.getvalue(), "x"))
    sideways = orientation >= 5
    assert upright.shape == ((24, 8) if sideways else (8, 24))
    assert header(buffer.getvalue(), "x")[0] == (upright.shape[1], upright.shape[0])
    # EXIF 2.3: where the stored top-left corner belongs when shown.
    bottom, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    corner = upright[-1 if bottom else 0, -1 if right else 0]
    assert corner > 200 and (upright > 128).mean() == pytest.approx(1 / 3, abs=0.05)


def test_floating_point_is_refused():
    with pytest.raises(UserError, match="photo.tif.*floating"):
        normalise(Image.new("F", (2, 2)), RGB, WHITE, "photo.tif")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (300, 200, 3)])
def test_png_is_uncompressed_and_exact(shape):
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    data = encode_png(Image.fromarray(pixels))
    with Image.open(io.BytesIO(data)) as picture:
        picture.verify()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert len(data) >= pixels.size
    assert header(data[:33], "x") == ((shape[1], shape[0]), "L" if len(shape) == 2 else "RGB")
