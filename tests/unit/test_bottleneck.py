"""Inner features of networks: the bottleneck is seen beside an output that is the same to the bit without."""

import copy

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser
from elucid.training.networks.checkpointing import checkpoint_regions
from elucid.training.networks.song_unet import SongUNet
from elucid.training.snapshots.records import without_features
from elucid.training.types import NetSpec

UNET = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
TOKENS = {"model_channels": 16, "depth": 3, "num_heads": 2, "patch": 2}
SHAPES = {
    "ddpmpp": (UNET, (2, 32, 4, 4)),
    "ncsnpp": (UNET, (2, 32, 4, 4)),
    "song_unet": ({**UNET, "encoder_type": "skip", "decoder_type": "skip"}, (2, 32, 4, 4)),
    "adm": (UNET, (2, 32, 4, 4)),
    "edm2": ({**UNET, "channels_per_head": 16}, (2, 32, 4, 4)),
    "adm_unet": ({**UNET, "model_channels": 32}, (2, 64, 4, 4)),
    "transformer": (TOKENS, (2, 16, 16)),
    "ddt": ({**TOKENS, "encoder_depth": 2}, (2, 16, 16)),
    "points_mlp": ({"hidden": 8}, (2, 8, 1, 1)),
}


def made(name, features, options=None):
    torch.manual_seed(0)
    side = 1 if name == "points_mlp" else 8
    spec = NetSpec((side, side), 3, vector={"labels": 4}, features=features)
    denoiser = make_denoiser({"name": name, **(SHAPES[name][0] if options is None else options)}, {"name": "edm"}, spec)
    for parameter in denoiser.parameters():  # away from the zeros of the initialisation
        torch.nn.init.normal_(parameter, std=0.1)
    return denoiser.eval()


def called(denoiser, first=0):
    torch.manual_seed(1)
    x = torch.randn(2, *denoiser.spec.sample_shape)
    return denoiser(x, torch.tensor([0.5, 2.0]), {"labels": torch.eye(4)[first : first + 2]})


@pytest.mark.parametrize("name", SHAPES)
def test_bottleneck(name):
    plain, seen = called(made(name, ())), called(made(name, ("bottleneck",)))
    assert torch.equal(plain.x0, seen.x0) and plain.features is None
    assert seen.features.keys() == {"bottleneck"} and seen.features["bottleneck"].shape == SHAPES[name][1]
    other = called(made(name, ("bottleneck",)), first=2).features["bottleneck"]  # of other classes
    assert (other - seen.features["bottleneck"]).abs().amax() > 1e-4
    with pytest.raises(UserError, match="block99"):
        made(name, ("block99",))


@pytest.mark.parametrize("name", ["ddpmpp", "adm_unet"])
def test_copies_and_recomputed_blocks_have_it(name):
    denoiser = made(name, ("bottleneck",)).train()
    wanted = called(denoiser)
    wanted.features["bottleneck"].square().sum().backward()
    other = copy.deepcopy(denoiser)
    other.zero_grad()
    checkpoint_regions(other.model)
    torch.manual_seed(1)
    found = called(other)
    found.features["bottleneck"].square().sum().backward()
    assert torch.equal(found.features["bottleneck"], wanted.features["bottleneck"])
    for mine, theirs in zip(denoiser.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad) if mine.grad is not None else theirs.grad is None
    assert "features" not in without_features(denoiser.model)


def test_a_network_alone_refuses_other_layers():
    with pytest.raises(UserError, match="no inner layer 'block1'; a U-Net has bottleneck"):
        SongUNet(8, 3, 3, model_channels=8, channel_mult=[1], features=["block1"])
