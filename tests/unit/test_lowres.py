"""The low-resolution condition: exact values, what it is made of, and how it goes with other conditions."""

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import build
from elucid.training.config.options import options_from
from elucid.training.config.train_options import TrainOptions
from elucid.training.losses.patch import crop
from elucid.training.transforms.lowres import LowRes, enlarge, shrink
from elucid.training.types import Batch, NetSpec

SPEC = NetSpec(resolution=(16, 16), image_channels=3, vector={"labels": 4})


def options(**changes) -> dict:
    base = {
        "encoder": {"name": "rgb"},
        "augment": None,
        "network": {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1},
        "precond": {"name": "edm"},
        "loss": {"name": "edm"},
        "lowres": {"name": "lowres", "factor": 2},
    }
    return {**base, **changes}


def test_areas_are_averaged_and_interpolated():
    image = torch.tensor([[0.0, 2, 8, 8], [4, 2, 8, 8], [1, 1, 0, 4], [1, 1, 0, 4]])[None, None]
    small = shrink(image, 2)
    assert small.flatten().tolist() == [2, 8, 1, 2]
    row = torch.tensor([[2.0, 3.5, 6.5, 8.0]])  # weights 3/4 and 1/4 between the centres of the squares
    below = torch.tensor([[1.0, 1.25, 1.75, 2.0]])
    expected = torch.cat([row, 0.75 * row + 0.25 * below, 0.25 * row + 0.75 * below, below])
    assert torch.equal(enlarge(small, (4, 4))[0, 0], expected)


def test_the_condition_is_the_image_of_the_batch():
    images, coords = torch.randn(3, 3, 8, 12), torch.zeros(3, 2, 8, 12)
    labels = torch.eye(3)
    batch = LowRes(4)(Batch(images, {"labels": labels, "coords": coords}, torch.tensor([True, False, True])))
    assert batch.images is images and batch.cond["coords"] is coords and batch.mirrored is not None
    assert sorted(batch.cond) == ["coords", "labels", "lowres"]
    assert torch.equal(batch.cond["lowres"], enlarge(shrink(images, 4), (8, 12)))


def test_the_noise_is_of_the_strength_that_is_told():
    images = torch.zeros(256, 3, 32, 32)
    torch.manual_seed(0)
    batch = LowRes(2, noise=0.4)(Batch(images))
    strength = batch.cond["lowres_noise"]
    assert strength.shape == (256, 1) and 0 <= strength.min() < 0.02 and 0.38 < strength.max() <= 0.4
    corner = batch.cond["lowres"][:, :, ::31, ::31].flatten(1)  # copied from the small image, not interpolated
    assert float((corner / strength).std()) == pytest.approx(1, abs=0.05)


def test_the_network_is_asked_for_it():
    parts = build(options(), SPEC, weights=False)
    assert parts.denoiser.spec.spatial == {"lowres": 3} and parts.denoiser.spec.vector == {"labels": 4}
    assert parts.options["lowres"] == {"name": "lowres", "factor": 2, "noise": 0.0}
    assert build(parts.options, SPEC, weights=False).options == parts.options
    assert build(options(lowres=None), SPEC, weights=False).options["lowres"] is None
    noisy = build(options(lowres={"name": "lowres", "factor": 4, "noise": 0.1}), SPEC, weights=False)
    assert noisy.denoiser.spec.vector == {"labels": 4, "lowres_noise": 1}
    both = build(options(loss={"name": "patch", "base": {"name": "edm"}}), SPEC, weights=False)
    assert both.denoiser.spec.spatial == {"lowres": 3, "coords": 2} and both.denoiser.spec.in_channels == 8


def test_it_shows_the_augmented_and_mirrored_image_and_its_patches():
    changes = {"augment": {"name": "edm", "p": 1.0}, "loss": {"name": "patch", "base": {"name": "edm"}}}
    parts = build(options(**changes, dataset={"xflip": True}), SPEC)
    raw = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    batch = Batch(raw, {"labels": torch.eye(5, 4)}, torch.tensor([True, False, True, False, True]))
    for transform in parts.transforms:
        batch = transform(batch)
    assert sorted(batch.cond) == ["augment", "coords", "labels", "lowres"]
    assert torch.equal(batch.cond["lowres"], enlarge(shrink(batch.images, 2), (16, 16)))
    rows, columns = torch.tensor([0, 1, 2, 3, 8]), torch.tensor([8, 5, 0, 1, 7])
    patches = crop(batch, rows, columns, 8, 8)
    assert torch.equal(patches.cond["lowres"][3], batch.cond["lowres"][3, :, 3:11, 1:9])
    assert torch.equal(patches.cond["coords"][3], batch.cond["coords"][3, :, 3:11, 1:9])


@pytest.mark.parametrize(
    ("lowres", "spec", "message"),
    [
        ({"factor": 3}, SPEC, "`lowres`=3 does not divide the images' 16x16; use one of 2, 4, 8, 16"),
        ({"factor": 1}, SPEC, "`lowres`=1 does not make images smaller"),
        ({"factor": 2.5}, SPEC, "factor=2.5 must be an integer"),
        ({"factor": 2, "noise": 1.5}, SPEC, "`lowres_noise`=1.5 must be from 0 to 1"),
        ({"factor": 2}, SPEC.replace(latent=True), "not on latents; leave out `train_on_latents`"),
    ],
)
def test_refusals(lowres, spec, message):
    with pytest.raises(UserError, match=message):
        build(options(lowres={"name": "lowres", **lowres}), spec, weights=False)


def test_flags():
    nested = options_from(TrainOptions(data="a.zip", lowres=4, lowres_noise=0.1, seed=0).flags())
    assert nested["lowres"] == {"name": "lowres", "factor": 4, "noise": 0.1}
    assert options_from(TrainOptions(data="a.zip", seed=0).flags())["lowres"] is None
    changed = TrainOptions(data="a.zip", lowres=2, seed=0, set={"lowres.factor": 8})
    assert options_from(changed.flags())["lowres"]["factor"] == 8
    with pytest.raises(UserError, match="`lowres_noise` .* give `lowres`=2, too"):
        options_from(TrainOptions(data="a.zip", lowres_noise=0.1).flags())
