"""Spectra: closed forms of white noise and AR(1), Parseval, known ratios, and channels that belong together."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from elucid.api.evaluations.arrays.spectrum import spectrum
from elucid.dnnlib.errors import UserError
from elucid.evaluation.spectrum.collect import Spectra
from elucid.evaluation.spectrum.distance import distances
from elucid.evaluation.spectrum.modes import Modes, coherence, octave_text


def collected(images: np.ndarray, window: str = "none") -> Spectra:
    found = Spectra(Modes(*images.shape[2:], window), images.shape[1])
    for image in images:
        found.add(image)
    return found


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def autoregressive(seed: int, num: int, length: int, phi: float) -> np.ndarray:
    """Lines [N,1,1,W] of x_t = phi x_(t-1) + e_t, started in its stationary distribution."""
    shocks, x = noise(seed, num, length), np.empty((num, length))
    x[:, 0] = shocks[:, 0] / math.sqrt(1 - phi**2)
    for t in range(1, length):
        x[:, t] = phi * x[:, t - 1] + shocks[:, t]
    return x[:, None, None]


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 7, 12), (1, 9, 9), (3, 1, 16), (1, 15, 1)])
def test_the_mean_over_all_modes_is_the_variance(shape):
    """Parseval's identity; of odd and even sizes, since half of the modes stand for two."""
    image = noise(0, *shape) + 5
    modes = Modes(*shape[1:], "none")
    rings = modes.rings(modes.transform(image))
    total = (rings * modes.ring_counts).sum(1) / (shape[1] * shape[2])
    np.testing.assert_allclose(total, image.var((1, 2)), rtol=1e-12)
    assert modes.ring_counts.sum() == shape[1] * shape[2] and np.allclose(rings[:, 0], 0)


def test_one_wave_is_in_one_ring():
    x = np.arange(32)
    wave = np.cos(2 * np.pi * (3 * x[:, None] + 4 * x) / 32)[None]
    modes = Modes(32, 32, "none")
    rings = modes.shown(modes.rings(modes.transform(wave)))[0]
    assert modes.frequencies[rings.argmax()] == 5 / 32 and np.delete(rings, 4).max() < 1e-12


@pytest.mark.parametrize("window", ["none", "hann"])
@pytest.mark.parametrize("shape", [(16, 16), (12, 20), (1, 32)])
def test_white_noise_is_flat_at_its_variance_whatever_size_and_window(shape, window):
    power, _ = collected(1.5 * noise(1, 600, 1, *shape), window).power()
    kept = power[0, 1:] if window == "hann" else power[0]  # the window takes the mean off the lowest ring
    np.testing.assert_allclose(kept, 2.25, rtol=0.2)
    assert kept.mean() == pytest.approx(2.25, rel=0.03)


def test_ar1_has_its_spectrum():
    phi, found = 0.6, collected(autoregressive(2, 1500, 128, 0.6), "hann")
    power, _ = found.power()
    expected = 1 / np.abs(1 - phi * np.exp(-2j * np.pi * found.modes.frequencies)) ** 2
    ratio = power[0, 2:] / expected[2:]
    assert np.abs(ratio - 1).max() < 0.15 and ratio.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_a_factor_is_its_decibels(factor):
    images = noise(3, 60, 1, 16, 16)
    (found,) = distances(collected(factor * images), collected(images))
    np.testing.assert_allclose(found.ratio, 20 * math.log10(factor), atol=1e-9)
    assert found.value == pytest.approx(abs(20 * math.log10(factor)), rel=0.02)


def test_chance_makes_no_distance_and_intervals_hold_the_truth():
    """Sets of one distribution: squared distances are 0 on average, and 95 % intervals reach 0."""
    squares, plain, holds = [], [], []
    for seed in range(60):
        (found,) = distances(collected(noise(100 + seed, 30, 1, 8, 8)), collected(noise(900 + seed, 20, 1, 8, 8)))
        squares.append(found.squared)
        plain.append((found.ratio**2).mean())
        holds.append(found.interval[0] == 0)
    error = np.std(squares) / math.sqrt(len(squares))
    assert abs(np.mean(squares)) < 3 * error < 0.5 * np.mean(plain) and np.mean(holds) > 0.9
    factor, holds = 1.1, []
    for seed in range(60):
        pair = collected(factor * noise(seed, 200, 1, 8, 8)), collected(noise(500 + seed, 200, 1, 8, 8))
        low, high = distances(*pair)[0].interval
        holds.append(low <= 20 * math.log10(factor) <= high)
    assert 0.87 <= np.mean(holds) <= 1


def test_correlation_and_coherence_of_channels():
    a, b = noise(5, 300, 16, 16), noise(6, 300, 16, 16)
    images = np.stack([a, a + b, b, -2 * a], axis=1) + np.array([0, 1e5, 3, 0])[:, None, None]
    found = collected(images)
    flat = images.transpose(1, 0, 2, 3).reshape(4, -1)
    matrix, without = found.correlation()
    np.testing.assert_allclose(matrix, np.corrcoef(flat), atol=1e-9)
    assert without.shape == (20, 4, 4) and matrix[0, 3] == pytest.approx(-1)
    octaves, _ = found.coherence()
    np.testing.assert_allclose(octaves[:, 0, 1], 0.5, atol=0.1)  # a + b and a share half of the power
    np.testing.assert_allclose(octaves[:, 0, 3], 1)
    assert octaves[0, 0, 2] < 0.01 and octaves[0, 0, 1] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("axis", [-1, -2])
def test_coherence_sees_a_derivative_which_correlation_does_not(axis):
    a = noise(7, 200, 16, 16)
    found = collected(np.stack([a, np.roll(a, -1, axis) - np.roll(a, 1, axis), noise(8, 200, 16, 16)], axis=1))
    octaves, _ = found.coherence()
    assert abs(found.correlation()[0][0, 1]) < 0.02
    assert octaves[1:, 0, 1].min() > 0.7 and octaves[:, 0, 2].max() < 0.02
    assert (
        octave_text(2, 4) == "1/8 to 1/4" and octave_text(4, 4) == "0 to 1/16" and found.modes.octaves == (1, 2, 3, 4)
    )
    assert np.isnan(coherence(np.zeros((1, 4, 2, 2)))).all()


def test_each_mode_up_to_half_is_part_of_one_octave():
    """The power of white noise in all octaves is that of the rings up to 0.5, of odd and even sizes and of lines."""
    for size in ((16, 16), (9, 14), (1, 20), (15, 1)):
        images = noise(9, 1, 1, *size)
        modes = Modes(*size, "none")
        values = modes.transform(images[0])
        found = modes.products(values).sum((0, 1))[0, 0]
        f = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1]))
        whole = np.abs(np.fft.fft2(images[0, 0] - images.mean())) ** 2 / math.prod(size)
        assert found.imag == pytest.approx(0) and found.real == pytest.approx(whole[f <= 0.5].sum())


def test_whole_comparison_with_files(tmp_path):
    a, b = noise(8, 50, 12, 12), noise(9, 50, 12, 12)
    data = np.stack([a, a + b, np.ones_like(a)], axis=1).astype(np.float32)
    samples = np.stack([1.3 * a[::-1], b, np.ones_like(a)], axis=1).astype(np.float32)
    np.savez(tmp_path / "samples.npz", samples=samples)
    result = spectrum(tmp_path / "samples.npz", data, plot=tmp_path / "s.svg", dest=tmp_path / "s.json")
    distance, *_, correlations, coherences = result.tables
    assert [row[0] for row in distance.rows[:2]] == ["0", "1"] and "constant, and left out: 2" in result.text()
    assert distance.rows[0][1] == pytest.approx(20 * math.log10(1.3), abs=0.3)
    assert result.value == pytest.approx(math.hypot(distance.rows[0][1], distance.rows[1][1]) / math.sqrt(2))
    assert result.interval[0] < result.value < result.interval[1]
    assert distance.rows[2][1:4] == (result.value, *result.interval)
    name, of_samples, of_data, difference, half = correlations.rows[0]
    assert name == "0, 1" and of_data == pytest.approx(1 / math.sqrt(2), abs=0.05)
    assert difference == of_samples - of_data and abs(difference) > half > 0 and len(coherences.rows) > 1
    chart = ElementTree.parse(tmp_path / "s.svg").getroot()
    texts = [one.text for one in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert "Power spectrum, channel 0" in texts and "Power of samples over that of data" in texts
    assert (tmp_path / "s-1.svg").exists()
    fewer = spectrum(samples, data, channels="1", num=10)
    assert fewer.about["num_images"] == 10 and fewer.about["channels"] == ["1"] and fewer.interval is not None


@pytest.mark.parametrize(
    "images, options, words",
    [
        (noise(0, 4, 1, 8, 8), {"window": "hanning"}, "`window`=hanning"),
        (noise(0, 4, 1, 8, 9), {}, "1x8x9"),
        (noise(0, 1, 1, 8, 8), {}, "at least 2"),
        (noise(0, 4, 1, 8, 8), {"plot": "x.png"}, ".svg"),
        (noise(0, 4, 1, 8, 8), {"channels": "u10"}, "'u10'"),
        (np.ones((4, 1, 8, 8)), {}, "constant"),
    ],
    ids=["window", "size", "one image", "plot", "channel", "constant"],
)
def test_what_is_refused(images, options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        spectrum(images, noise(1, 4, 1, 8, 8), **options)
    assert words in str(error.value) and "\n" not in str(error.value)
