"""Statistics of channels in one pass are those of numpy over the whole, and the robust ones those of a fair sample."""

import numpy as np
import pytest

from elucid.training.data.arrays.statistics import MAD_TO_STD, ChannelStream, channel_statistics


def samples(kind="float32", count=37, missing=0.0, seed=0):
    rng = np.random.default_rng(seed)
    scale = np.array([1.0, 30.0, 0.001])[:, None, None]
    found = (rng.normal(0, 1, (count, 3, 5, 7)) * scale + np.array([100.0, -7.0, 5.0])[:, None, None]).astype(kind)
    if missing:
        found[rng.random(found.shape) < missing] = rng.choice([np.nan, np.inf, -np.inf])
    return found


def by_numpy(values):
    """Mean, deviation, least, most, median, robust deviation of the finite values of each channel, of the whole."""
    rows = []
    for channel in np.moveaxis(values.astype(np.float64), 1, 0):
        finite = channel[np.isfinite(channel)]
        median = np.median(finite)
        spread = MAD_TO_STD * np.median(np.abs(finite - median))
        rows.append((finite.mean(), finite.std(), finite.min(), finite.max(), median, spread))
    return np.array(rows).T


def shown(summary):
    return np.array(
        [
            summary.mean,
            summary.std,
            summary.minimum,
            summary.maximum,
            summary.median,
            summary.robust_std,
        ]
    )


@pytest.mark.parametrize("kind", ["float32", "float16", "float64", "int16"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_as_numpy_on_the_whole(kind, missing):
    values = samples(kind, missing=missing if kind != "int16" else 0)
    summary = channel_statistics(iter(values))
    np.testing.assert_allclose(shown(summary), by_numpy(values), rtol=1e-12, atol=1e-15)
    bad = (~np.isfinite(values.astype(np.float64))).sum((0, 2, 3))
    assert summary.samples == 37 and (summary.missing == bad).all() and (summary.count + bad == 37 * 35).all()


def test_a_small_deviation_on_a_large_mean():
    """Sums of squares in float64 would lose all digits: (1e8)^2 = 1e16 has a spacing of 2."""
    values = 1e8 + np.random.default_rng(0).integers(0, 3, (50, 1, 9, 9)).astype(np.float64)
    summary = channel_statistics(values)
    np.testing.assert_allclose(summary.std, values.std(), rtol=1e-9)
    values = np.full((4, 1, 3, 3), 0.1, np.float32)
    assert channel_statistics(values).std[0] == 0


def test_one_huge_sample_among_small_ones():
    rng = np.random.default_rng(0)
    values = [rng.normal(one, 1 + one, (1, 3, 3 * (one + 1))) for one in range(20)]
    whole = np.concatenate([one.ravel() for one in values])
    summary = channel_statistics(values)
    np.testing.assert_allclose([summary.mean[0], summary.std[0]], [whole.mean(), whole.std()], rtol=1e-12)


def test_constant_and_empty_channels_are_named():
    values = samples(count=4)
    values[:, 1] = 3.5
    values[:, 2] = np.nan
    summary = channel_statistics(values)
    assert summary.constant == [1, 2] and summary.count.tolist() == [140, 140, 0]
    assert np.isnan(shown(summary)[:, 2]).all() and summary.std[1] == 0 and summary.robust_std[1] == 0


def test_robust_statistics_do_not_see_outliers():
    values = samples(count=400)
    values[::50] = 1e9
    summary = channel_statistics(values, sampled=4000)
    np.testing.assert_allclose(summary.robust_std, [1, 30, 0.001], rtol=0.12)
    assert summary.std.min() > 1e6


def test_the_sample_is_fair_reproducible_and_bounded():
    """Each of 2,000 values is kept with the same probability, 100/2000, wherever it comes."""
    values = np.arange(2000.0).reshape(20, 1, 10, 10)
    kept = np.zeros(2000)
    for seed in range(300):
        stream = ChannelStream(1, sampled=100, seed=seed)
        for one in values:
            stream.add(one)
        found = stream._reservoirs[0]._values.astype(int)
        assert len(found) == len(set(found)) == 100
        kept[found] += 1
    by_sample = kept.reshape(20, 100).sum(1)  # 1500 of 30000 expected; the deviation is below sqrt(1500)
    assert np.abs(by_sample - 1500).max() < 4.5 * np.sqrt(1500)
    one, two, three = (channel_statistics(values, 100, seed).median[0] for seed in (1, 1, 2))
    assert one == two != three


def test_no_samples():
    with pytest.raises(ValueError):
        channel_statistics([])
