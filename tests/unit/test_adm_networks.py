"""The ADM U-Net and its classifier: options, conditions, gradient checkpointing, precision, and use as components."""

import math

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser, make_network
from elucid.training.networks.attention import jvp
from elucid.training.networks.resolutions import ResolutionPlan
from elucid.training.types import NetSpec

SMALL = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0}
SPEC = NetSpec((8, 8), 1, vector={"labels": 3})


def network(name="adm_unet", spec=SPEC, **options):
    """A network whose last layers are not zero."""
    torch.manual_seed(0)
    net = make_network({"name": name, **SMALL, **options}, spec)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return net


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 1, 8, 8, generator=generator), torch.tensor([3.0, 400.0]), {"labels": torch.eye(3)[[0, 2]]}


@pytest.mark.parametrize(
    "options",
    [
        {"resblock_updown": False},
        {"resblock_updown": False, "conv_resample": False},
        {"scale_shift_norm": False, "skip_rescale": True},
        {"activation": "gelu"},
        {"activation": "relu"},
        {"new_attention_order": True, "num_heads": 2},
        {"num_heads": 2, "num_heads_upsample": 4},
        {"channels_per_head": 8},
        {"channel_mult": [0.5, 1]},
        {"channel_mult_emb": 2, "implicit_mlp": True},
    ],
    ids=str,
)
def test_every_option_changes_the_output(options):
    plain, other = network(), network(**options)
    x, c_noise, cond = inputs()
    out = other(x, c_noise, cond)
    assert out.shape == x.shape and out.isfinite().all() and not torch.equal(out, plain(x, c_noise, cond))
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in other.parameters())


def test_as_initialised_it_returns_zeros_and_blocks_are_the_identity():
    """The last convolution of each residual branch, and of the network, starts at zero."""
    net = make_network({"name": "adm_unet", **SMALL, "channel_mult": [1, 1]}, SPEC)
    x, c_noise, cond = inputs()
    assert net(x, c_noise, cond).count_nonzero() == 0
    h, emb = torch.randn(2, 16, 4, 4), net.embed(c_noise, cond)
    assert torch.equal(net.middle_block(h, emb), h)


def test_labels_select_rows_and_no_class_adds_nothing():
    net = network()
    _, c_noise, cond = inputs()
    without = net.embed(c_noise, {"labels": torch.zeros(2, 3)})
    difference = net.embed(c_noise, cond) - without
    assert torch.allclose(difference, net.label_emb.weight[[0, 2]], atol=1e-5)
    unconditional = network(spec=NetSpec((8, 8), 1))
    assert not hasattr(unconditional, "label_emb")
    net.train().label_dropout = 1.0
    assert torch.equal(net.embed(c_noise, cond), without)


def test_skip_rescale_keeps_the_variance():
    net = network(skip_rescale=True)
    h, other = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    assert torch.allclose(net.style.join(h, other), (h + other) / math.sqrt(2))


@pytest.mark.parametrize("name", ["adm_unet", "adm_classifier"])
def test_checkpointing_with_dropout_gives_the_same_gradients(name):
    grads = []
    for checkpoint in (False, True):
        net = network(name, checkpoint=checkpoint, dropout=0.4).train()
        torch.manual_seed(5)
        net(*inputs()).square().sum().backward()
        grads.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*grads, strict=True))


def test_checkpointing_has_the_same_forward_derivative_and_its_gradient():
    x, c_noise, cond = inputs()
    found = []
    for checkpoint in (False, True):
        net = network(checkpoint=checkpoint).eval()
        along = torch.ones_like(x), torch.ones_like(c_noise)
        _, derivative = jvp(lambda x, c, net=net: net(x, c, cond), (x, c_noise), along)
        derivative.square().sum().backward()
        found.append((derivative, net.input_blocks[1][0].in_layers[2].weight.grad))
    assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["adm_unet", "adm_classifier"])
def test_half_precision_input_gives_half_precision_output(name):
    net = network(name)
    x, c_noise, cond = inputs()
    full, half = net(x, c_noise, cond), net(x.bfloat16(), c_noise, cond)
    assert half.dtype == torch.bfloat16 and (half.float() - full).norm() < 0.1 * full.norm()


@pytest.mark.parametrize("pool", ["attention", "average"])
def test_classifier_under_its_preconditioner(pool):
    spec = NetSpec((8, 8), 1, vector={"labels": 3})
    classifier = make_denoiser({"name": "adm_classifier", **SMALL, "pool": pool}, {"name": "classifier"}, spec)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 20.0])
    logits = classifier(x, sigma)
    assert logits.shape == (2, 3) and classifier.spec.vector == {}
    wide = torch.randn(2, 1, 16, 16)
    if pool == "average":
        assert classifier(wide, sigma).shape == (2, 3)
    else:
        with pytest.raises(UserError, match="made for 16 positions, not 8x8"):
            classifier(wide, sigma)


def test_pictures_that_are_not_square():
    spec = NetSpec((8, 16), 1, vector={"labels": 3})
    x, c_noise, cond = torch.randn(2, 1, 8, 16), torch.tensor([1.0, 2.0]), {"labels": torch.eye(3)[:2]}
    assert network(spec=spec)(x, c_noise, cond).shape == x.shape
    assert network("adm_classifier", spec)(x, c_noise, cond).shape == (2, 1)


def test_attention_lies_where_it_is_asked_for():
    net = network(attn_resolutions=[8])
    kinds = [[type(layer).__name__ for layer in stage] for stage in net.input_blocks]
    assert kinds == [["Conv2d"], ["Block", "SelfAttention"], ["Block"], ["Block"]]
    assert [len(stage) for stage in net.output_blocks] == [1, 2, 2, 2]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_heads": 3}, "32 channels cannot have num_heads=3"),
        ({"channels_per_head": 12}, "32 channels cannot have channels_per_head=12"),
        ({"activation": "tanh"}, "activation='tanh' is unknown; choose from silu, gelu, relu"),
        ({"channel_mult": [0.3, 1]}, "invalid widths"),
        ({"channel_mult": [1, 1, 1, 1, 1]}, "not divisible by 16"),
        ({"num_blocks": 0}, "num_blocks=0 must be 1 or more"),
        ({"dropout": 2.0}, "dropout=2.0 must be between 0 and 1"),
    ],
)
@pytest.mark.parametrize("name", ["adm_unet", "adm_classifier"])
def test_options_that_do_not_fit_are_one_line(name, options, message):
    with pytest.raises(UserError, match=message) as error:
        make_network({"name": name, **SMALL, **options}, SPEC)
    assert "\n" not in str(error.value)


def test_an_unknown_pool_is_one_line():
    with pytest.raises(UserError, match="pool='max' is unknown; choose from attention, average"):
        network("adm_classifier", pool="max")


def test_fractional_multipliers_are_allowed_where_widths_are_whole():
    assert [one.channels for one in ResolutionPlan(8, [0.5, 1], 16, []).resolutions] == [8, 16]
