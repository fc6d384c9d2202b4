"""Regions of networks, and their activations computed again instead of stored."""

import copy

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser
from elucid.training.memory import _Stored
from elucid.training.networks.adm_layers import Stage
from elucid.training.networks.attention import jvp
from elucid.training.networks.blocks import ResidualBlock
from elucid.training.networks.checkpointing import checkpoint_regions
from elucid.training.networks.edm2.blocks import EDM2Block
from elucid.training.networks.regions import regions
from elucid.training.networks.transformers.blocks import Block
from elucid.training.types import NetSpec
from tests import transformers

NETWORKS = {
    "ddpmpp": ResidualBlock,
    "ncsnpp": ResidualBlock,
    "adm": ResidualBlock,
    "adm_unet": Stage,
    "edm2": EDM2Block,
    "jit": Block,
    "ddt": Block,
}


def denoiser(name: str = "ddpmpp", dropout: float = 0.5):
    torch.manual_seed(0)
    network = {"name": name, "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "dropout": dropout}
    network["attn_resolutions"] = [8]
    if name in transformers.SMALL:
        network = transformers.small(name, depth=8, dropout=dropout)
    made = make_denoiser(network, {"name": "edm"}, NetSpec((8, 8), 3))
    for parameter in made.parameters():  # away from the zeros of the initialisation
        nn.init.normal_(parameter, std=0.05)
    return made.train()


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_regions_and_have_most_weights(name):
    model = denoiser(name).model
    found = regions(model)
    assert {type(one) for one in found} == {NETWORKS[name]} and len(found) > 6
    inside = {id(p) for one in found for p in one.parameters()}
    total = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in model.parameters() if id(p) in inside) > 0.85 * total
    assert len(inside) == sum(len(list(one.parameters())) for one in found), "none is in two"


def test_a_network_names_its_regions_and_may_have_none():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert regions(net) == []
    with pytest.raises(UserError, match="`checkpointing`: Sequential has no repeated blocks"):
        checkpoint_regions(net)
    net.regions = lambda: [net[1]]
    assert regions(net) == [net[1]]


def gradients(model):
    stored = _Stored()
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(stored.note, lambda tensor: tensor):
        out = model(torch.randn(2, 3, 8, 8), torch.ones(2)).x0
    out.square().sum().backward()
    return {name: one.grad for name, one in model.named_parameters()}, stored.bytes, torch.rand(1)


@pytest.mark.parametrize("name", ["ddpmpp", "adm_unet", "jit"])
def test_checkpointing_gives_the_same_gradients_with_less_memory(name):
    """To the bit, dropout included; and what is drawn afterwards is the same."""
    plain = denoiser(name)
    other = copy.deepcopy(plain)
    checkpoint_regions(other.model)
    copied = copy.deepcopy(other)
    (wanted, much, after), (found, little, then) = gradients(plain), gradients(other)
    assert wanted.keys() == found.keys() and torch.equal(after, then)
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert little < 0.6 * much
    assert all(torch.equal(one, wanted[key]) for key, one in gradients(copied)[0].items()), "a copy is of its own"
    assert all(one is not two for one, two in zip(copied.parameters(), other.parameters(), strict=True))


def test_forward_derivatives_of_a_checkpointed_network():
    plain = denoiser(dropout=0.0)
    other = copy.deepcopy(plain)
    checkpoint_regions(other.model)
    x, sigma = torch.randn(2, 3, 8, 8), torch.ones(2)
    results = [jvp(lambda one, net=net: net(one, sigma).x0, (x,), (torch.ones_like(x),)) for net in (plain, other)]
    assert torch.equal(results[0][1], results[1][1])
