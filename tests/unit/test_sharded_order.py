"""The order of data in shards: a permutation that stays in a few shards at a time, a function of seed and position."""

import numpy as np
import pytest
import torch
from scipy import stats

from elucid.dnnlib.errors import UserError
from elucid.training.data.loading.order import Feistel, Shuffled, make_order
from elucid.training.data.loading.sharded import Sharded
from elucid.training.data.loading.stream import BatchStream

SIZES = [[5], [1, 1, 1], [7, 3, 0, 9, 4], [10] * 23, list(range(1, 40))]


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("window", [1, 2, 5, 100])
@pytest.mark.parametrize("sizes", SIZES, ids=len)
def test_each_epoch_has_every_image_once(sizes, window, copies):
    count = sum(sizes) * copies
    found = Sharded(sizes, window, copies, seed=3)(np.arange(3 * count)).reshape(3, count)
    assert all(np.array_equal(np.sort(epoch), np.arange(count)) for epoch in found)


def test_order_depends_on_seed_and_position_alone():
    sizes = SIZES[-1]
    count = sum(sizes)
    whole = Sharded(sizes, 4, 1, seed=3)(np.arange(3 * count))
    order = Sharded(sizes, 4, 1, seed=3)
    for start in (2 * count + 5, count - 50, 0, count // 2):
        assert np.array_equal(order(np.arange(start, start + 100)), whole[start : start + 100])
    assert not np.array_equal(whole[:count], whole[count : 2 * count])
    assert not np.array_equal(whole[:count], Sharded(sizes, 4, 1, seed=4)(np.arange(count)))


def shards_of(items: np.ndarray, sizes: list[int]) -> np.ndarray:
    return np.searchsorted(np.cumsum(sizes), items % sum(sizes), side="right")


@pytest.mark.parametrize("copies", [1, 2])
def test_a_window_of_the_epoch_has_a_few_shards_and_both_of_a_flip(copies):
    sizes, window = [10] * 24, 4
    epochs = Sharded(sizes, window, copies, seed=1)(np.arange(5 * 240 * copies)).reshape(5, -1)
    for part in epochs.reshape(-1, 10 * window * copies):
        assert len(np.unique(shards_of(part, sizes))) == window
        assert np.array_equal(np.unique(part % 240, return_counts=True)[1], np.full(40, copies))


def test_images_may_come_anywhere_in_an_epoch_and_windows_are_mixed():
    """Chi-square of where some images come, and of the shards of neighbours; ten tests, so p of 1e-4 is an accident."""
    sizes, window, epochs = [10] * 20, 5, 600
    found = Sharded(sizes, window, 1, seed=1)(np.arange(epochs * 200)).reshape(epochs, 200)
    for image in np.linspace(0, 199, 9).astype(int):
        counts = np.histogram((found == image).argmax(axis=1), bins=20, range=(0, 200))[0]
        assert stats.chisquare(counts).pvalue > 1e-4, image
    parts = shards_of(found, sizes).reshape(-1, 50)
    same = (parts[:, :-1] == parts[:, 1:]).mean()
    assert same == pytest.approx(9 / 49, abs=5 * np.sqrt(9 / 49 * 40 / 49 / parts.size))


def test_it_foresees_the_shards_of_what_comes():
    sizes, window = [3, 10, 6, 8, 2, 9, 7], 3
    order = Sharded(sizes, window, 1, seed=2)
    for start in range(0, 2 * sum(sizes), 7):
        positions = np.arange(start, start + 7)
        now, later = order.soon(positions)
        assert sorted(now) == np.unique(shards_of(order(positions), sizes)).tolist()
        assert not set(now) & set(later)
        following = shards_of(order(np.arange(start, start + 7 + min(sizes))), sizes)
        assert set(following.tolist()) <= {*now, *later}
    assert Feistel(100, 0).soon(np.arange(5)) == ([], [])


def test_names_choose_and_states_keep():
    assert make_order(None, 20, 7, [10, 10], 3).name == "shards-3"
    again = make_order("shards-1", 40, 7, [10, 10], 3)
    assert again.name == "shards-1" and np.array_equal(again(np.arange(40)), Sharded([10, 10], 1, 2, 7)(np.arange(40)))
    assert isinstance(make_order("shuffled", 20, 7, [10, 10], 3), Shuffled), "a run that began without shards"
    for name in ("shards-0", "shards-x", "shards-2"):
        with pytest.raises(UserError, match="order"):
            make_order(name, 20, 7)


class Numbers:
    """Images whose only value is their number."""

    label_dim, shard_sizes, shard_window = 0, [9, 4, 12, 7, 8], 2

    def __init__(self):
        self.expected = []

    def __len__(self):
        return 40

    def image(self, index):
        return np.full((1, 1, 1), index, np.uint8)

    def label(self, index):
        return np.zeros(0, np.float32)

    def expect(self, now, later):
        self.expected.append((now, later))


def batches(count: int, number: int, **options) -> list[list[int]]:
    stream = BatchStream(Numbers(), [], torch.device("cpu"), seed=5, **options)
    found = [stream.next(count).images.ravel().tolist() for _ in range(number)]
    stream.close()
    return found


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_out_the_batches_of_one(processes):
    alone = batches(8, 15)
    shares = [batches(8 // processes, 15, rank=rank, world_size=processes) for rank in range(processes)]
    assert [sum(parts, []) for parts in zip(*shares, strict=True)] == alone
    assert sorted(sum(alone[:5], [])) == list(range(40))


def test_a_stream_goes_on_from_its_position_and_tells_the_dataset():
    alone = batches(8, 15)
    data = Numbers()
    stream = BatchStream(data, [], torch.device("cpu"), seed=5, prefetch=0)
    assert stream.order == "shards-2"
    stream.position = 8 * 7  # amid the second epoch
    assert [stream.next(8).images.ravel().tolist() for _ in range(8)] == alone[7:]
    stream.position = 0
    stream.use_order("shards-1")
    assert [stream.next(8).images.ravel().tolist() for _ in range(10)] == batches(8, 10, order="shards-1")
    stream.close()
    for (now, _), images in zip(data.expected, alone[7:], strict=False):
        assert sorted(now) == np.unique(shards_of(np.array(images), data.shard_sizes)).tolist()
