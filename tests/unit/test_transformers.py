"""Transformers: places of tokens, labels, features, sizes of images, options that do not fit."""

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser, make_network
from elucid.training.guidance.window import CoordinateWindow
from elucid.training.networks.transformers.blocks import image, patches, rotate
from elucid.training.networks.transformers.embeddings import rotary_angles, sine_positions
from elucid.training.registry.components import make
from elucid.training.types import NetSpec
from tests.transformers import SMALL, small


def network(family="dit", size=(8, 8), labels=3, alive=True, **options):
    torch.manual_seed(0)
    vector = {"labels": labels} if labels else {}
    spec = NetSpec(size, 2, vector=vector, features=tuple(options.pop("features", ())))
    made = make_network(small(family, **options), spec)
    for parameter in made.parameters() if alive else ():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return made.eval()


def inputs(size=(8, 8), labels=3):
    cond = {"labels": torch.eye(labels)[[0, labels - 1]]} if labels else {}
    return torch.randn(2, 2, *size), torch.tensor([0.2, 0.9]), cond


def test_images_are_cut_and_put_together():
    x = torch.randn(2, 3, 8, 12)
    tokens = patches(x, 4)
    assert tokens.shape == (2, 6, 48) and torch.equal(tokens[1, 4].reshape(3, 4, 4), x[1, :, 4:8, 4:8])
    assert torch.equal(image(tokens, 4, (2, 3), channel_first=True), x)
    channel_last = tokens.unflatten(-1, (3, 16)).transpose(-1, -2).flatten(2)
    assert torch.equal(image(channel_last, 4, (2, 3)), x)


def test_places_depend_on_row_and_column_alone():
    """So a grid of 3x5 has the places that it has in one of 5x5."""
    inside = [row * 5 + column for row in range(3) for column in range(5)]
    assert torch.equal(sine_positions((3, 5), 16), sine_positions((5, 5), 16)[inside])
    assert torch.equal(rotary_angles((3, 5), 8), rotary_angles((5, 5), 8)[inside])


def test_stretched_places_reach_from_end_to_end():
    """On each axis, whatever the number of tokens; one token in a row stays at the start."""
    for grid in ((3, 5), (8, 2)):
        angles = rotary_angles(grid, 8, span=16.0)
        assert angles[0].abs().max() == 0 and angles[-1].tolist() == [16, 16, 0.16, 0.16]
    assert rotary_angles((1, 4), 8, span=16.0)[:, 1].tolist() == [0, 0, 0, 0]


def test_rotated_products_depend_on_the_distance():
    q, k = torch.randn(2, 8).double()
    angles = rotary_angles((4, 4), 8)
    q, k = (rotate(one.expand(1, 1, 16, 8), angles.cos(), angles.sin())[0, 0] for one in (q, k))
    products = (q @ k.T).reshape(4, 4, 4, 4)
    assert torch.allclose(products[0, 0, 2, 1], products[1, 2, 3, 3])
    assert not torch.allclose(products[0, 0, 2, 1], products[0, 0, 1, 2])


def test_without_positions_tokens_have_no_order():
    x, c_noise, cond = inputs()
    order = torch.randperm(16)

    def shuffled(x):
        return image(patches(x, 2)[:, order], 2, (4, 4), channel_first=True)

    for options, same in (({"positions": "none"}, True), ({}, False), ({"positions": "none", "rotary": True}, False)):
        net = network(**options)
        assert torch.allclose(net(shuffled(x), c_noise, cond), shuffled(net(x, c_noise, cond)), atol=1e-5) == same


@pytest.mark.parametrize("family", SMALL)
def test_a_new_network_gives_zeros_and_adaln_zero_blocks_their_input(family):
    names = [f"block{index}" for index in (1, 2, 3, 4)]
    out, features = network(family, alive=False, features=names)(*inputs())
    assert out.shape == (2, 2, 8, 8) and out.abs().max() == 0
    same = [torch.equal(features["block1"], features[name]) for name in names]
    assert same == ([True] * 4 if family != "ddt" else [True, False, False, False])


@pytest.mark.parametrize("family", SMALL)
def test_sizes_and_classes_of_any_number(family):
    for size, labels in (((8, 12), 7), ((4, 6), 1), ((8, 8), 0)):
        net = network(family, size, labels, features=["block1", "block4"])
        x, c_noise, cond = inputs(size, labels)
        out, features = net(x, c_noise, cond)
        assert out.shape == x.shape and out.isfinite().all() and list(features) == ["block1", "block4"]
        assert {one.shape for one in features.values()} == {(2, size[0] * size[1] // 4, 32)}
        assert torch.equal(network(family, size, labels)(x, c_noise, cond), out), "what is seen changes nothing"


@pytest.mark.parametrize("family", SMALL)
def test_no_label_is_a_row_of_the_table(family):
    net = network(family)
    x, c_noise, cond = inputs()
    none, first = (net(x, c_noise, {"labels": one.expand(2, -1)}) for one in (torch.zeros(3), torch.eye(3)[0]))
    table = net.y_embedder.embedding_table.weight
    assert table.shape == (4, 32) and not torch.allclose(none, first)
    table.data[0] = table.data[3]
    assert torch.equal(net(x, c_noise, {"labels": torch.eye(3)[[0, 0]]}), none)


def test_without_a_null_class_no_label_adds_nothing():
    net = network(null_class=False)
    x, c_noise, _ = inputs()
    assert net.y_embedder.embedding_table.weight.shape == (3, 32)
    bare = network(labels=0)
    bare.load_state_dict({name: one for name, one in net.state_dict().items() if "y_embedder" not in name})
    assert torch.equal(net(x, c_noise, {"labels": torch.zeros(2, 3)}), bare(x, c_noise, {}))


def test_features_reach_the_prediction():
    spec = NetSpec((8, 8), 2, vector={"labels": 3}, features=("block2",))
    for family in SMALL:
        prediction = make_denoiser(small(family), {"name": "edm"}, spec).eval()(torch.randn(2, 2, 8, 8), 1.0)
        assert prediction.features["block2"].shape == (2, 16, 32)


@pytest.mark.parametrize("family", SMALL)
def test_bf16_is_float32_up_to_rounding(family):
    net = network(family)
    x, c_noise, cond = inputs()
    whole, half = net(x, c_noise, cond), net(x.bfloat16(), c_noise, cond)
    assert half.dtype == torch.bfloat16 and (half - whole).norm() < 0.03 * whole.norm()


def test_dropout_of_the_middle_half():
    net = network("jit", depth=8, dropout=0.5)
    assert [block.attn.dropout.p for block in net.blocks] == [block.mlp.dropout.p for block in net.blocks]
    assert [block.attn.dropout.p for block in net.blocks] == [0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0]
    shallow = network("jit", depth=3, dropout=0.5, context_start=1)
    assert [block.attn.dropout.p for block in shallow.blocks] == [0.5] * 3, "no half of three is without any"
    x, c_noise, cond = inputs()
    assert torch.equal(net(x, c_noise, cond), net(x, c_noise, cond))
    assert not torch.equal(net.train()(x, c_noise, cond), net(x, c_noise, cond))


@pytest.mark.parametrize(
    ("options", "size", "words"),
    [
        ({"patch": 3}, (8, 8), "network.patch=3 does not divide images of 8x8; use 2 or 4"),
        ({"patch": 16}, (8, 12), "network.patch=16 does not divide images of 8x12; use 4"),
        ({"patch": 0}, (8, 8), "network.patch=0 .* use 1"),
        ({"num_heads": 5}, (8, 8), r"network.num_heads=5 does not divide a width of 32 \(`cbase`\); use 4 or 8"),
        ({"num_heads": 16, "rotary": True}, (8, 8), "32 .* in 16 heads gives 2; use network.num_heads=8$"),
        ({"model_channels": 30, "num_heads": 5}, (8, 8), "width divisible by 4, not model_channels=30"),
        ({"model_channels": 0}, (8, 8), "model_channels=0 must be 1 or more"),
        ({"depth": 0}, (8, 8), "network.depth=0 must be 1 or more"),
        ({"mlp_ratio": 0}, (8, 8), "network.mlp_ratio=0 gives the MLP no channels; use 4"),
        ({"dropout": 1.0}, (8, 8), "`dropout`=1.0 must be at least 0 and below 1"),
        ({"norm": "layers"}, (8, 8), "network.norm='layers' is unknown; use layer"),
        ({"mlp": "relu"}, (8, 8), "network.mlp='relu' is unknown; use gelu"),
        ({"positions": "learned"}, (8, 8), "network.positions='learned' is unknown; use sincos, none"),
        ({"context_tokens": 2, "context_start": 4}, (8, 8), "context_start=4 is no block of 4; use 0 to 3"),
        ({"context_tokens": -1}, (8, 8), "network.context_tokens=-1 must be 0 or more"),
        ({"bottleneck": -1}, (8, 8), "network.bottleneck=-1 must be 0 or more"),
        ({"time_period": float("inf")}, (8, 8), "time_period=inf must be above 0 and finite"),
        ({"features": ["block5"]}, (8, 8), "no inner layer 'block5'; it has block1 to block4"),
        ({"features": ["dec"]}, (8, 8), "no inner layer 'dec'"),
        ({"family": "ddt", "encoder_depth": 4}, (8, 8), "network.encoder_depth=4 must be 1 to 3"),
        ({"family": "ddt", "depth": 1}, (8, 8), "network.depth=1 must be 2 or more"),
        ({"family": "ddt", "num_heads": 16}, (8, 8), "in 16 heads gives 2; use network.num_heads=8$"),
    ],
)
def test_what_does_not_fit(options, size, words):
    with pytest.raises(UserError, match=words) as caught:
        network(**options, size=size)
    assert "\n" not in str(caught.value)


def test_images_of_another_size_and_patches_of_images():
    with pytest.raises(UserError, match="for images of 8x8 got 4x8"):
        network()(*inputs((4, 8)))
    loss = make({"name": "patch", "base": {"name": "edm"}}, "loss")
    denoiser = make_denoiser(small("dit"), {"name": "edm"}, NetSpec((8, 8), 2, spatial={"coords": 2}))
    with pytest.raises(UserError, match="`arch`"):
        loss.check(denoiser)
    whole = make({"name": "patch", "base": {"name": "edm"}, "real_p": 1.0}, "loss")
    whole.check(denoiser)
    with pytest.raises(UserError, match="`image_size`=16.*8x8"):
        CoordinateWindow(denoiser, 0, 0, (16, 16))
    CoordinateWindow(denoiser, 4, 0, (8, 8))(torch.randn(1, 2, 8, 8), 1.0)
