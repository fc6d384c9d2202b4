"""Linear maps of tokens by oneDNN: the same as torch's, with gradients, and only where they are meant."""

import pytest
import torch
from torch.nn import functional as F

from elucid.training.networks.attention import jvp
from elucid.training.networks.kernels import cpu_linear
from elucid.training.networks.layers import Linear

pytestmark = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch without oneDNN")


@pytest.fixture
def chosen(monkeypatch):
    """Where oneDNN is said to be faster; a list of the shapes that it is given."""
    monkeypatch.setattr(cpu_linear, "onednn_is_faster", lambda: True)
    plain, shapes = cpu_linear.product, []
    monkeypatch.setattr(cpu_linear, "product", lambda *given: shapes.append(given[0].shape) or plain(*given))
    return shapes


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 12), (1, 1, 12), (3, 64, 12)])
def test_values_and_gradients(shape, bias, chosen):
    x, weight = torch.randn(shape), torch.randn(7, 12)
    given = [one.requires_grad_() for one in (x, weight, *([torch.randn(7)] if bias else []))]
    outs = [function(*given, *([] if bias else [None])) for function in (cpu_linear.linear, F.linear)]
    torch.testing.assert_close(*outs)
    dy = torch.randn_like(outs[0])
    for one, other in zip(*(torch.autograd.grad(out, given, dy) for out in outs), strict=True):
        torch.testing.assert_close(one, other)
    assert len(chosen) == 3  # forward, and the two products of the backward pass


def test_second_derivatives_and_strides(chosen):
    x = torch.randn(4, 2, 12).transpose(0, 1).requires_grad_()
    weight, bias = torch.randn(12, 7).t().requires_grad_(), torch.randn(7).requires_grad_()
    found = []
    for function in (cpu_linear.linear, F.linear):
        (slope,) = torch.autograd.grad(function(x, weight, bias).square().sum(), x, create_graph=True)
        found.append([slope, *torch.autograd.grad(slope.square().sum(), (x, weight, bias))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_where_it_is_used(chosen, monkeypatch):
    layer, tokens = Linear(12, 7), torch.randn(2, 3, 12)
    jvp(layer, (tokens,), (tokens,))
    torch.func.vmap(layer)(tokens[:, None])
    layer(tokens.to(torch.bfloat16)), layer(tokens[0])
    assert not chosen
    layer(tokens)
    assert len(chosen) == 1
    monkeypatch.setattr(cpu_linear, "onednn_is_faster", lambda: False)
    layer(tokens)
    assert len(chosen) == 1


@pytest.mark.parametrize(
    ("text", "faster"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t: fpu avx2 avx512f", True),
        ("vendor_id\t: AuthenticAMD\nflags\t: fpu avx2", False),
        ("vendor_id\t: GenuineIntel\nflags\t: avx512f", False),
        ("", False),
    ],
)
def test_which_cpus(text, faster, monkeypatch):
    monkeypatch.setattr(cpu_linear.Path, "read_text", lambda self, **how: text)
    assert cpu_linear.has_avx512_of_another_maker() is faster
