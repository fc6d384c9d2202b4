"""Dropout on a CPU: its distribution and gradient, and that it draws from torch's generator."""

import pytest
import torch
from torch.nn import functional as F

from elucid.training.networks.attention import jvp
from elucid.training.networks.kernels.dropout import Dropout, keep_torchs_masks


def dropout(x, p, training=True):
    return Dropout(p).train(training)(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.13, 0.5])
def test_a_share_is_dropped_and_the_mean_kept(p, dtype):
    y = dropout(torch.ones(100, 41, 100, dtype=dtype), p).double()  # not a multiple of four
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert float((y == 0).double().mean()) == pytest.approx(p, abs=5 * deviation)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4 if dtype == torch.float32 else 4e-3)


def test_elements_are_independent():
    """Of neighbours, which share a draw, as many are dropped together as chance wants."""
    gone = (dropout(torch.ones(400_000), 0.3) == 0).double().view(-1, 4)
    together = (gone.T @ gone / len(gone)).fill_diagonal_(0.09)
    assert together == pytest.approx(torch.full((4, 4), 0.09).double().numpy(), abs=0.005)
    shares = gone.mean(0)
    assert shares.tolist() == pytest.approx([0.3] * 4, abs=0.01)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_go_where_values_went(layout):
    x = torch.randn(3, 5, 4, 4).to(memory_format=layout).requires_grad_()
    torch.manual_seed(1)
    y = dropout(x, 0.4)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    torch.testing.assert_close(slope, torch.where(y == 0, 0, 2 * y / 0.6), rtol=1e-4, atol=1e-6)
    (second,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(second, torch.where(y == 0, 0, 2 / 0.36), rtol=1e-4, atol=1e-6)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.4), y)
    assert not torch.equal(dropout(x, 0.4), y)


def test_one_half_of_a_tensor_with_holes():
    """Strided inputs, e.g. half of the channels, are thinned as others are."""
    y = dropout(torch.ones(8, 64, 16, 16)[:, ::2], 0.25)
    assert y.shape == (8, 32, 16, 16) and float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_derivatives_forwards_have_the_same_mask():
    x, dx = torch.randn(2, 3, 4, 100, 4)
    torch.manual_seed(1)
    y = dropout(x, 0.4)
    torch.manual_seed(1)
    value, derivative = jvp(lambda x: dropout(x, 0.4), (x,), (dx,))
    torch.testing.assert_close(value, y)
    torch.testing.assert_close(derivative, torch.where(y == 0, 0, dx / 0.6), rtol=1e-4, atol=1e-6)


def test_where_it_is_torchs_own(monkeypatch):
    """Outside of training, for shares that cannot be told from 0 or 1, and in transforms of functions."""
    calls = []
    plain = F.dropout
    monkeypatch.setattr(F, "dropout", lambda *given: calls.append(given[1:]) or plain(*given))
    x = torch.randn(2, 3)
    assert torch.equal(dropout(x, 0.5, False), x) and not dropout(x, 1.0).any()
    torch.testing.assert_close(dropout(x, 1e-7), x)
    torch.func.vmap(lambda x: dropout(x, 0.5), randomness="different")(x)
    assert calls == [(0.5, False), (1.0, True), (1e-7, True), (0.5, True)]
    dropout(x, 0.5)
    assert len(calls) == 4


def test_runs_of_earlier_versions_have_torchs_masks():
    network, x = torch.nn.Sequential(torch.nn.Linear(3, 3), Dropout(0.5)), torch.randn(40, 3)
    keep_torchs_masks(network)
    torch.manual_seed(1)
    plain = F.dropout(network[0](x), 0.5)
    torch.manual_seed(1)
    assert torch.equal(network(x), plain)
