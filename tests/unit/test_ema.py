"""EMA against its closed form."""

import pytest
import torch
from torch import nn

from elucid.training.ema.halflife import HalflifeEMA
from tests.oracles import step_at


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(3))
        self.register_buffer("count", torch.tensor(0))


def test_halflife_is_a_halflife():
    module = Weights()
    ema = HalflifeEMA(module, [0.001, 0.002], rampup_ratio=None)
    module.value.data.fill_(1.0)
    for index in range(10):
        ema.update(module, step_at(100 * index, 10000, batch_size=100))
    # 1000 images = one half-life of the first average, half a one of the second.
    assert torch.allclose(ema.averages["0.001"].value, torch.tensor(0.5))
    assert torch.allclose(ema.averages["0.002"].value, torch.tensor(1 - 0.5**0.5))


def test_ramp_up_follows_the_weights_at_the_start():
    ema = HalflifeEMA(Weights(), [0.5], rampup_ratio=0.05)
    assert ema.beta("0.5", step_at(0, 1, batch_size=64)) == 0.0
    assert ema.beta("0.5", step_at(10000, 1, batch_size=500)) == pytest.approx(0.5)
    assert ema.beta("0.5", step_at(10**9, 1, batch_size=500000)) == pytest.approx(0.5)


def test_buffers_and_state():
    module = Weights()
    ema = HalflifeEMA(module, [1.0])
    module.count.fill_(7)
    module.value.data.fill_(2.0)
    ema.update(module, step_at(0, 1, batch_size=1))
    other = HalflifeEMA(Weights(), [1.0])
    other.load_state_dict(ema.state_dict())
    assert other.averages["1"].count == 7 and (other.averages["1"].value == 2).all()
    assert not other.averages["1"].value.requires_grad and not other.averages["1"].training
