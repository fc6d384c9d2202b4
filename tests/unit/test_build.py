"""The chain of building: names, defaults, refusals."""

import pytest

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import build
from elucid.training.types import NetSpec

SPEC = NetSpec(resolution=(16, 16), image_channels=3, vector={"labels": 4})


def options(**changes) -> dict:
    base = {
        "encoder": {"name": "rgb"},
        "augment": None,
        "network": {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1},
        "precond": {"name": "edm"},
        "loss": {"name": "edm"},
    }
    return {**base, **changes}


def test_defaults_are_resolved_and_kept():
    parts = build(options(loss={"name": "edm", "noise": {"P_mean": -0.8}}), SPEC, weights=False)
    assert parts.options["loss"] == {"name": "edm", "noise": {"name": "lognormal", "P_mean": -0.8, "P_std": 1.2}}
    assert parts.options["network"]["embedding_type"] == "positional"
    assert parts.options["precond"]["sigma_data"] == 0.5
    again = build(parts.options, SPEC, weights=False)
    assert again.options == parts.options


@pytest.mark.parametrize("arch", ["ddpmpp", "ncsnpp", "adm"])
@pytest.mark.parametrize("precond", ["vp", "ve", "iddpm", "edm"])
def test_every_pair_builds(arch, precond):
    small = {"name": arch, "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1}
    parts = build(options(network=small, precond={"name": precond}, loss={"name": precond}), SPEC)
    assert parts.denoiser.spec.out_channels == (6 if precond == "iddpm" else 3)


def test_the_augmentation_asks_for_its_labels():
    parts = build(options(augment={"name": "edm", "p": 0.1}), SPEC, weights=False)
    assert parts.denoiser.spec.vector == {"labels": 4, "augment": 9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"name": "ddpmp"}}, "unknown network 'ddpmp'"),
        ({"network": {"name": "ddpmpp", "model_chanels": 3}}, "did you mean 'model_channels'"),
        ({"network": {"name": "ddpmpp", "in_channels": 7}}, "network.in_channels"),
        ({"network": {"name": "ddpmpp", "encoder_type": "x"}}, "choose from standard, skip, residual"),
        ({"network": {"name": "ddpmpp", "channel_mult": [1] * 6}}, "use fewer resolutions"),
        ({"precond": {"name": "edm", "sigma": 1}}, "preconditioner edm has no option 'sigma'"),
        ({"loss": {"name": "iddpm"}}, "use `precond`=iddpm"),
        ({"loss": {"name": "json:loads"}}, "loads|no option|needs"),
    ],
)
def test_refusals_name_the_thing(changes, message):
    with pytest.raises(UserError, match=message):
        build(options(**changes), SPEC, weights=False)
