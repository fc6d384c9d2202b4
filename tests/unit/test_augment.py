"""The augmentation pipe beyond its vectors: identities, statistics, maps that move along, shapes."""

import math
import pickle

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.transforms.augment_pipe import AugmentPipe, edm_augment
from elucid.training.transforms.resampling import resample, rotation, scaling, shift, translation, turn
from elucid.training.types import Batch, NetSpec

GEOMETRY = {name: 1 for name in "xflip yflip rotate_int translate_int scale rotate_frac aniso translate_frac".split()}
COLOUR = {name: 1 for name in "brightness contrast lumaflip hue saturation".split()}


def smooth_images(batch_size, channels, height, width):
    """Random images without detail finer than about 8 pixels, so that resampling them is nearly exact."""
    coarse = torch.rand(batch_size, channels, max(height // 8, 2), max(width // 8, 2)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(-1, 1)


def test_probability_zero_is_the_identity():
    images = torch.rand(16, 3, 12, 20) * 2 - 1
    batch = AugmentPipe(0, **GEOMETRY, **COLOUR)(Batch(images))
    assert torch.equal(batch.images, images)
    assert batch.cond["augment"].shape == (16, 19) and not batch.cond["augment"].any()


def test_without_operations_nothing_is_added():
    batch = Batch(torch.zeros(2, 3, 8, 8))
    assert AugmentPipe()(batch) is batch
    assert AugmentPipe().adapt(NetSpec((8, 8), 3)).vector == {}


def test_edm_set_has_nine_numbers_and_always_flips():
    torch.manual_seed(0)
    pipe = edm_augment(p=1e-7)
    assert pipe.adapt(NetSpec((32, 32), 3)).vector == {"augment": 9}
    labels = pipe(Batch(torch.zeros(1000, 3, 8, 8))).cond["augment"]
    assert not labels[:, 1:].any()
    assert abs(labels[:, 0].mean() - 0.5) < 4 * math.sqrt(0.25 / 1000)


@pytest.mark.parametrize("name", ["scale", "rotate_frac", "translate_frac", "aniso", "brightness", "hue"])
def test_share_of_images_left_alone(name):
    torch.manual_seed(1)
    count, p = 4000, 0.3
    images = torch.rand(count, 3, 4, 4) * 2 - 1
    batch = AugmentPipe(p, **{name: 1})(Batch(images))
    unlabelled = (batch.cond["augment"] == 0).all(dim=1)
    assert abs(unlabelled.float().mean() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / count)
    unchanged = (batch.images - images).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert torch.equal(unchanged, unlabelled)


def test_spreads_are_those_of_the_options():
    torch.manual_seed(2)
    pipe = AugmentPipe(scale=1, rotate_frac=1, aniso=1, translate_int=1, rotate_frac_max=0.5, aniso_rotate_prob=0.25)
    parameters = pipe.draw(20000, (32, 16))
    assert parameters["scale"].std() == pytest.approx(1, abs=0.03)
    assert parameters["rotate_frac"].abs().max() == pytest.approx(math.pi / 2, rel=0.01)
    assert (parameters["aniso"][1] != 0).float().mean() == pytest.approx(0.25, abs=0.02)
    x, y = parameters["translate_int"] * pipe.operations["translate_int"].limit
    assert set((x * 16).tolist()) == {-2, -1, 0, 1, 2} and set((y * 32).tolist()) == set(range(-4, 5))


@pytest.mark.parametrize("name", ["xflip", "yflip"])
def test_flipping_twice_is_the_identity(name):
    torch.manual_seed(3)
    images = torch.rand(8, 3, 6, 10)
    pipe = AugmentPipe(**{name: 1})
    parameters = pipe.draw(8, (6, 10))
    assert parameters[name].any() and not parameters[name].all()
    once = pipe.apply(images, parameters)
    assert not torch.equal(once, images) and torch.equal(pipe.apply(once, parameters), images)


def test_labels_tell_the_parameters():
    torch.manual_seed(4)
    pipe = AugmentPipe(0.7, **GEOMETRY, **COLOUR)
    parameters = pipe.draw(64, (16, 24))
    parameters["aniso"][1] /= 2  # the half circle that a label can tell
    again = pipe.parameters_from_labels(pipe.labels(parameters))
    for name, value in parameters.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=1e-5, msg=name)
    with pytest.raises(UserError, match=r"\[batch, 19\]"):
        pipe.parameters_from_labels(torch.zeros(4, 9))


@pytest.mark.parametrize("channels, size", [(1, (8, 8)), (1, (9, 24)), (3, (24, 16)), (4, (16, 40))])
def test_any_shape_stays_and_maps_move_along(channels, size):
    torch.manual_seed(5)
    pipe = AugmentPipe(**GEOMETRY, **(COLOUR if channels in (1, 3) else {}))
    images, coords = torch.rand(6, channels, *size) * 2 - 1, torch.rand(6, 2, *size)
    labels = torch.eye(6)
    torch.manual_seed(6)
    batch = pipe(Batch(images, {"coords": coords, "labels": labels}))
    torch.manual_seed(6)
    parameters = pipe.draw(6, size)
    torch.testing.assert_close(batch.cond["coords"], pipe.move(coords, parameters))
    torch.testing.assert_close(batch.images, pipe.apply(images, parameters))
    assert batch.cond["labels"] is labels and torch.isfinite(batch.images).all()


def test_coordinates_name_the_source_of_each_pixel():
    torch.manual_seed(7)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    coords = torch.stack([x, y]).expand(4, 2, 32, 32)
    picture = coords.sum(dim=1, keepdim=True)  # linear in the coordinates, and so moves exactly with them
    batch = edm_augment(1)(Batch(picture, {"coords": coords}))
    torch.testing.assert_close(batch.images, batch.cond["coords"].sum(dim=1, keepdim=True), rtol=0, atol=1e-5)
    assert (batch.cond["coords"] - coords).abs().amax(dim=(1, 2, 3)).min() > 0.1


def test_resampling_moves_to_where_the_map_says():
    torch.manual_seed(8)
    images = smooth_images(1, 3, 40, 56)
    one = torch.ones(1)
    inner = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    moved = resample(images, translation(-2 * one, 3 * one))
    torch.testing.assert_close(moved, shift(images, 2 * one, -3 * one), rtol=0, atol=1e-5)
    square = images[..., :40]
    turned = resample(square, rotation(one * math.pi / 2))  # not exact, for the filter is not symmetric
    torch.testing.assert_close(turned, turn(square, one), rtol=0, atol=0.05)
    there, back = (
        rotation(0.3 * one) @ scaling(0.9 * one, 1.1 * one),
        scaling(one / 0.9, one / 1.1) @ rotation(-0.3 * one),
    )
    assert (resample(resample(images, there), back) - images)[inner].abs().max() < 0.02


def test_turning_copies_pixels():
    images = torch.rand(4, 3, 10, 10)
    turned = turn(images, torch.arange(4))
    for quarters in range(4):
        assert torch.equal(turned[quarters], torch.rot90(images[quarters], quarters, (1, 2)))


def test_colours_keep_gray_gray_and_gray_images_agree_with_rgb():
    torch.manual_seed(9)
    pipe = AugmentPipe(**COLOUR)
    gray = torch.rand(32, 1, 4, 4) * 2 - 1
    parameters = pipe.draw(32, (4, 4))
    rgb = pipe.apply(gray.expand(-1, 3, -1, -1), parameters)
    torch.testing.assert_close(rgb, pipe.apply(gray, parameters).expand(-1, 3, -1, -1), rtol=1e-4, atol=1e-4)


def test_refusals():
    with pytest.raises(UserError, match="hue needs gray or RGB images, not 4 channels; set it to 0"):
        AugmentPipe(hue=1).adapt(NetSpec((32, 32), 4))
    with pytest.raises(UserError, match="scale=-1 must be"):
        AugmentPipe(scale=-1)
    with pytest.raises(UserError, match="does not know the map 'depth'"):
        edm_augment()(Batch(torch.zeros(2, 3, 8, 8), {"depth": torch.zeros(2, 1, 8, 8)}))


def test_a_wild_scale_stays_within_memory():
    torch.manual_seed(10)
    pipe = AugmentPipe(scale=1, scale_std=20)
    assert torch.isfinite(pipe(Batch(torch.rand(8, 3, 16, 16))).images).all()


def test_pickles_and_repeats():
    pipe = pickle.loads(pickle.dumps(edm_augment(0.5)))
    results = []
    for augment in (pipe, edm_augment(0.5)):
        torch.manual_seed(11)
        results.append(augment(Batch(torch.linspace(-1, 1, 8 * 3 * 64).reshape(8, 3, 8, 8))).images)
    assert torch.equal(*results)
