"""The order that needs no memory: a permutation for any number of images, as even as a random one, named by states."""

import numpy as np
import pytest
from scipy import stats

from elucid.dnnlib.errors import UserError
from elucid.training.data.loading.order import LARGE, Feistel, Shuffled, make_order

COUNTS = [*range(1, 40), 63, 64, 65, 255, 256, 257, 1000, 4095, 4096, 4097, 100_003]


@pytest.mark.parametrize("count", COUNTS)
def test_each_epoch_has_every_image_once(count):
    order = Feistel(count, seed=3)
    epochs = order(np.arange(3 * count)).reshape(3, count)
    assert all(np.array_equal(np.sort(epoch), np.arange(count)) for epoch in epochs)


def test_order_depends_on_seed_and_position_alone():
    whole = Feistel(1000, seed=3)(np.arange(3000))
    order = Feistel(1000, seed=3)
    pieces = [order(np.arange(start, start + 250)) for start in (2750, 900, 0)]
    for start, piece in zip((2750, 900, 0), pieces, strict=True):
        assert np.array_equal(piece, whole[start : start + 250])
    assert not np.array_equal(whole[:1000], whole[1000:2000])
    assert not np.array_equal(whole[:1000], Feistel(1000, seed=4)(np.arange(1000)))


def epochs(order: type, count: int, number: int) -> np.ndarray:
    return order(count, seed=1)(np.arange(number * count)).reshape(number, count)


@pytest.mark.parametrize("count", [50, 1000])
def test_an_image_may_come_anywhere_in_an_epoch(count):
    """Chi-square of where in the epoch each of some images comes; 20 tests, so a p of 1e-4 is a rare accident."""
    found = epochs(Feistel, count, 2000)
    for image in np.linspace(0, count - 1, 20).astype(int):
        counts = np.histogram((found == image).argmax(axis=1), bins=50, range=(0, count))[0]
        assert stats.chisquare(counts).pvalue > 1e-4, image


@pytest.mark.parametrize("step", [1, 2, 32])
def test_neighbours_of_the_file_are_no_neighbours_of_the_epoch(step):
    """Their distance in the epoch is that of two random places, in one epoch and from one epoch to the next."""
    count = 2000
    found = epochs(Feistel, count, 200)
    place = np.argsort(found, axis=1) / count
    for one, other in ((place[:, :-step], place[:, step:]), (place[:-1, step:], place[1:, :-step])):
        distance = (other - one).ravel() % 1
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(distance.size)
        counts = np.histogram(distance, bins=40, range=(0, 1))[0]
        assert abs(counts / distance.size * 40 - 1).max() < 6 * np.sqrt(40 / distance.size)


def test_successive_images_of_an_epoch_are_as_even_as_numpys():
    """Chi-square of pairs of successive images, by their quarter of the file each."""
    found = epochs(Feistel, 1000, 500) // 250
    counts = np.bincount((found[:, :-1] * 4 + found[:, 1:]).ravel(), minlength=16)
    reference = epochs(Shuffled, 1000, 500) // 250
    expected = np.bincount((reference[:, :-1] * 4 + reference[:, 1:]).ravel(), minlength=16)
    assert stats.chi2_contingency([counts, expected]).pvalue > 1e-4


def test_ten_million_images_take_no_memory():
    order = make_order(None, 10**7, seed=0)
    assert isinstance(order, Feistel)
    items = order(np.arange(10**7 - 512, 10**7 + 512))
    assert len(np.unique(items[:512])) == len(np.unique(items[512:])) == 512 and items.max() < 10**7
    held = [value for value in vars(order).values() if isinstance(value, np.ndarray) and value.ndim]
    assert held == []


def test_small_data_sets_keep_their_order_and_names_choose():
    assert make_order(None, LARGE, 0).name == "shuffled" and make_order(None, LARGE + 1, 0).name == "feistel"
    assert make_order("shuffled", LARGE + 1, 0).name == "shuffled" and make_order("feistel", 10, 0).name == "feistel"
    expected = np.random.default_rng([7, 1]).permutation(100)
    assert np.array_equal(make_order(None, 100, 7)(np.arange(100, 200)), expected), "as in every version before"
    with pytest.raises(UserError, match="order 'spiral'.*update"):
        make_order("spiral", 10, 0)
