"""Seeds to images: what they may and may not depend on; grids."""

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.rng import PerSeedRandom
from elucid.training.encoders.rgb import RGB
from elucid.training.noise.schedules import Karras
from elucid.training.samplers.edm import EDMSampler
from elucid.training.sampling.generate import draw, generate
from elucid.training.sampling.output.grid import save_grid, tile
from elucid.training.snapshots.snapshot import load_snapshot
from tests.oracles import GaussianDenoiser
from tests.snapshots import save_random_snapshot


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return load_snapshot(save_random_snapshot(tmp_path_factory.mktemp("model") / "model.pkl", classes=3)).ema


def images_of(denoiser, seeds, **options):
    parts = list(generate(denoiser, RGB(), seeds, sampler=EDMSampler(S_churn=1.0), schedule=Karras(3), **options))
    assert [seed for part in parts for seed in part.seeds] == list(seeds)
    return torch.cat([part.images for part in parts])


def test_images_do_not_depend_on_threads_or_neighbours(denoiser):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([images_of(denoiser, [seed]) for seed in (5, 3, 8)])
        torch.set_num_threads(2)
        together = images_of(denoiser, [0, 1, 8, 2, 3, 4, 5], batch_size=5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together[[6, 4, 2]], alone)


def test_batches_are_of_the_size_asked_for(denoiser):
    parts = generate(denoiser, RGB(), range(21), batch_size=8, schedule=Karras(1))
    assert [len(part.seeds) for part in parts] == [8, 8, 5]


def test_the_class_is_drawn_after_the_latents(denoiser):
    latents, labels = draw(denoiser.spec, PerSeedRandom([4, 9]))
    for row, seed in enumerate((4, 9)):
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(latents[row], torch.randn(3, 8, 8, generator=generator))
        assert int(labels[row]) == int(torch.randint(3, (), generator=generator))
    parts = list(generate(denoiser, RGB(), [4, 9], schedule=Karras(1)))
    assert torch.equal(parts[0].labels, labels)


def test_images_of_the_exact_denoiser():
    """x0 of N(0.2, 0.1^2) decodes to numbers around 128 + 127.5 * 0.2."""
    denoiser = GaussianDenoiser(mean=0.2, std=0.1)
    (part,) = generate(denoiser, RGB(), range(64))
    assert part.labels is None and part.images.shape == (64, 1, 4, 4) and part.images.dtype == torch.uint8
    assert float(part.images.float().mean()) == pytest.approx(153.5 - 0.5, abs=1.5)
    assert float(part.images.float().std()) == pytest.approx(12.75, rel=0.1)


def test_an_error_in_a_block_is_raised(denoiser):
    def fails(x):
        raise ValueError("decoding failed")

    encoder = RGB()
    encoder.decode = fails
    with pytest.raises(ValueError, match="decoding failed"):
        list(generate(denoiser, encoder, range(9), schedule=Karras(1)))


@pytest.mark.parametrize("class_idx", [-1, 3])
def test_the_class_is_checked_before_any_work(denoiser, class_idx):
    with pytest.raises(UserError, match="`classes`"):
        generate(denoiser, RGB(), [0], classes=class_idx)
    with pytest.raises(UserError, match="without classes"):
        generate(GaussianDenoiser(), RGB(), [0], classes=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_grid(tmp_path, channels):
    images = torch.arange(5 * channels * 2 * 3, dtype=torch.uint8).reshape(5, channels, 2, 3)
    grid = tile(images)
    assert grid.shape == (channels, 2 * 2, 3 * 3)
    assert torch.equal(grid[:, :2, 3:6], images[1]) and torch.equal(grid[:, 2:, :3], images[3])
    assert not grid[:, 2:, 6:].any()
    save_grid(tile(images, columns=5), tmp_path / "grid.png")
    picture = np.array(Image.open(tmp_path / "grid.png")).reshape(2, 15, channels)
    assert np.array_equal(picture[:, 12:], images[4].permute(1, 2, 0).numpy())
