"""The batch stream: an order that depends on seed and position alone, flips, coordinates, dropped labels."""

import numpy as np
import pytest
import torch

from elucid.training.data.loading.order import Shuffled
from elucid.training.data.loading.stream import BatchStream
from elucid.training.encoders.rgb import RGB
from elucid.training.transforms.coordinates import Coordinates
from elucid.training.transforms.encode import Encode
from elucid.training.transforms.flips import Mirror
from elucid.training.transforms.label_dropout import LabelDropout


class Numbers:
    """A data set whose image i is filled with i, and whose columns brighten to the right."""

    label_dim = 10

    def __init__(self, count=10, cached=False):
        self.images = np.zeros((count, 1, 4, 6), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None] * 10
        self.images += np.arange(6, dtype=np.uint8)
        if cached:
            self.array = self.images

    def __len__(self):
        return len(self.images)

    def image(self, index):
        return self.images[index]

    def label(self, index):
        return np.eye(len(self), dtype=np.float32)[index]


CPU = torch.device("cpu")


def stream(dataset=None, transforms=(), **options):
    return BatchStream(dataset or Numbers(), [Encode(RGB()), *transforms], CPU, **options)


def numbers(batch) -> list[int]:
    assert (batch.cond["labels"].argmax(1) == ((batch.images[:, 0, 0].amin(1) + 1) * 12.75).round().long()).all()
    return batch.cond["labels"].argmax(1).tolist()


def test_every_epoch_is_another_permutation():
    order = Shuffled(100, seed=3)
    first, second = order(np.arange(100)), order(np.arange(100, 200))
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(first) != list(second)
    assert list(Shuffled(100, seed=3)(np.arange(50, 150))) == [*first[50:], *second[:50]]
    assert list(Shuffled(100, seed=4)(np.arange(100))) != list(first)


@pytest.mark.parametrize("options", [{}, {"workers": 3}, {"dataset": Numbers(cached=True)}, {"keep_on_device": True}])
def test_order_is_the_same_however_it_is_loaded(options):
    options = dict(options)
    if options.get("keep_on_device"):
        options["dataset"] = Numbers(cached=True)
    one, other = stream(), stream(**options)
    for count in (4, 4, 7, 1, 4):  # a change of size discards what was loaded ahead
        assert numbers(one.next(count)) == numbers(other.next(count))


def test_two_processes_see_the_images_of_one():
    whole = numbers(stream().next(8))
    halves = [numbers(stream(rank=rank, world_size=2).next(4)) for rank in (0, 1)]
    assert halves[0] + halves[1] == whole


def test_position_is_all_there_is_to_resume():
    one = stream(seed=5)
    for _ in range(3):
        one.next(7)
    other = stream(seed=5)
    other.position = one.position
    assert numbers(one.next(7)) == numbers(other.next(7))


def test_xflip_doubles_the_data_and_moves_the_coordinates():
    batch = BatchStream(Numbers(), [Mirror(), Encode(RGB()), Coordinates()], CPU, xflip=True).next(20)
    brightens = batch.images[:, 0, 0, -1] > batch.images[:, 0, 0, 0]
    assert brightens.sum() == 10
    coords = batch.cond["coords"]
    assert ((coords[:, 0, 0, -1] > coords[:, 0, 0, 0]) == brightens).all()


class Sums(RGB):
    """An encoder that does not commute with mirroring: each pixel becomes the sum of those to its left."""

    def encode(self, raw):
        return raw.to(torch.float32).cumsum(3)


def test_images_are_mirrored_before_they_are_encoded():
    batch = BatchStream(Numbers(), [Mirror(), Encode(Sums())], CPU, xflip=True).next(20)
    images = torch.from_numpy(Numbers().images).float()
    for image, number in zip(batch.images, batch.cond["labels"].argmax(1), strict=True):
        plain, mirrored = images[number].cumsum(2), images[number].flip(2).cumsum(2)
        assert torch.equal(image, plain) or torch.equal(image, mirrored)
    assert len(batch.images.flatten(1).unique(dim=0)) == 20


def test_label_dropout():
    torch.manual_seed(0)
    many = torch.cat([stream(transforms=[LabelDropout(0.3)]).next(10).cond["labels"] for _ in range(100)])
    dropped = 1 - many.sum(1).mean()
    assert 0.25 < dropped < 0.35
