"""Forward derivatives of networks and denoisers equal finite differences, and can be differentiated backwards."""

import pytest
import torch

from elucid.training.config.build import make_denoiser, make_network
from elucid.training.networks.attention import jvp
from elucid.training.types import NetSpec
from tests import transformers

SMALL = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0}
SPEC = NetSpec((8, 8), 1, vector={"labels": 3})
LABELS = {"labels": torch.eye(3)[[0, 2]]}
DENOISERS = ["vp", "ve", "iddpm", "edm"]


def alive(module):
    """Away from the zeros of the initialisation, where derivatives vanish."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def finite_difference(function, at, along, step):
    """Central differences of two widths, extrapolated to an error of order 4."""

    def central(step):
        ends = [function(*(x + sign * step * way for x, way in zip(at, along, strict=True))) for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * step)

    return (4 * central(step / 2) - central(step)) / 3


@pytest.mark.parametrize("name", [*transformers.U_NETS, *transformers.SMALL])
def test_networks(name):
    """In x, in the noise level, and in a second one."""
    options = transformers.small(name) if name in transformers.SMALL else {"name": name, **SMALL}
    network = alive(make_network(options, SPEC.with_vector("sigma_to", 1))).double().eval()
    x, c_noise, to = torch.randn(2, 1, 8, 8).double(), *torch.tensor([[0.3, -0.2], [0.1, -0.7]]).double()
    along = torch.randn_like(x), *torch.tensor([[0.5, -1.0], [-1.5, 0.5]]).double()
    labels = {"labels": LABELS["labels"].double()}

    def function(x, c_noise, to):
        return network(x, c_noise, {**labels, "sigma_to": to.reshape(-1, 1)})

    _, derivative = jvp(function, (x, c_noise, to), along)
    expected = finite_difference(function, (x, c_noise, to), along, 1e-5)
    assert expected.norm() > 0.01 and (derivative - expected).norm() < 1e-6 * expected.norm()
    _, of_second = jvp(lambda to: function(x, c_noise, to), (to,), along[2:])
    assert of_second.norm() > 1e-3 * expected.norm()
    derivative.pow(2).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert sum(p.grad is not None for p in network.parameters()) > 10


def test_the_mode_is_needed():
    network = alive(make_network({"name": "ddpmpp", **SMALL}, SPEC)).eval()
    x = torch.randn(2, 1, 8, 8)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(lambda x: network(x, torch.zeros(2), LABELS), (x,), (x,))


@pytest.mark.parametrize("network", ["ddpmpp", "adm"])
@pytest.mark.parametrize("precond", DENOISERS)
def test_denoisers(precond, network):
    """In x and, where the levels are not discrete, in sigma; weights and inputs in float32, as denoisers compute."""
    denoiser = alive(make_denoiser({"name": network, **SMALL}, {"name": precond}, SPEC)).eval()
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.6, 1.4])
    along = torch.randn_like(x), torch.zeros(2) if precond == "iddpm" else torch.tensor([0.5, -1.0])

    def function(x, sigma):
        return denoiser(x, sigma, LABELS).x0

    value, derivative = jvp(function, (x, sigma), along)
    assert torch.allclose(value, function(x, sigma), atol=1e-4)
    expected = finite_difference(function, (x, sigma), along, 1e-3)
    assert (derivative - expected).norm() < 5e-3 * expected.norm()
