"""Features depend on the image alone: not on batches, order, threads or padding."""

import os

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import make_detector
from elucid.metrics.measures.chunks import chunk_size, in_chunks
from elucid.metrics.measures.collect import Wanted, collect

CPU = torch.device("cpu")


def pictures(num: int, size: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [1, 7, 16, 50])
def test_chunks_hold_all_images_once_and_are_all_of_one_size(batch):
    images = pictures(50)
    chunks = list(in_chunks(images.split(batch), 16))
    assert [len(chunk) for chunk, _ in chunks] == [16] * 4 and [count for _, count in chunks] == [16, 16, 16, 2]
    assert torch.equal(torch.cat([chunk[:count] for chunk, count in chunks]), images)
    assert all(torch.equal(image, images[-1]) for image in chunks[-1][0][2:])
    assert list(in_chunks([], 16)) == []


def rows(detector, batches, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    (found,) = collect([detector], [Wanted(rows=frozenset({"features"}))], batches, range(total), total)
    return found.rows["features"], found.statistics["features"].covariance


@pytest.mark.parametrize("name", ["random", "squeezenet", "efflite0_96"])
def test_features_are_equal_to_the_last_bit(name):
    """For batches of 1, 7 and 64, for images in another order, and for another number of threads."""
    try:
        detector = make_detector(name, CPU)
    except UserError as error:
        pytest.skip(str(error))
    images = pictures(20)
    expected, covariance = rows(detector, images.split(64), 20)
    for batch in (1, 7):
        found, own = rows(detector, images.split(batch), 20)
        assert torch.equal(found, expected) and torch.equal(own, covariance)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rows(detector, images[order].split(10), 20)[0], expected[order])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else min(max(os.cpu_count() or 2, 2), 8))
        assert torch.equal(rows(detector, images.split(64), 20)[0], expected)
    finally:
        torch.set_num_threads(threads)


def test_padding_is_no_image():
    """Statistics are of the 17 images, though the detector sees 32."""

    class Brightness:
        name, dim, device, extra = "brightness", 1, CPU, {}
        seen = 0

        def __call__(self, images):
            self.seen += len(images)
            return images.float().mean((1, 2, 3))[:, None]

    detector, images = Brightness(), pictures(17)
    (found,) = collect([detector], [Wanted()], [images], range(17), 17)
    assert detector.seen == 2 * chunk_size(CPU)
    values = images.double().mean((1, 2, 3))
    assert found.statistics["features"].num == 17
    assert float(found.statistics["features"].covariance) == pytest.approx(float(values.var()), rel=1e-5)
