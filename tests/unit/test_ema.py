"""EMA against its closed form."""

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.weights.buffers import changing_buffers
from elucid.training.ema.halflife import HalflifeEMA
from elucid.training.ema.power import PowerEMA
from elucid.training.ema.profiles import coefficients, distance, halflife, power, std_to_exponent
from elucid.training.networks.layers import Conv2d, FourierEmbedding
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


class Normed(nn.Sequential):
    """A network with weights in several shapes, a running mean, and buffers that are constant."""

    def __init__(self):
        super().__init__(Conv2d(3, 4, 3), nn.BatchNorm2d(4), FourierEmbedding(4))


def test_update_is_that_of_each_weight_alone():
    """Bit by bit, for all averages; what only the device knows has no other effect on a CPU than its rounding."""
    torch.manual_seed(0)
    module = Normed()
    ema, late = (HalflifeEMA(module, [0.0001, 0.0005], rampup_ratio=None) for _ in range(2))
    expected = {name: [one.clone() for one in average.parameters()] for name, average in ema.averages.items()}
    for index in range(3):
        for parameter in module.parameters():
            parameter.data += torch.randn_like(parameter)
        step = step_at(100 * index, 10000, batch_size=100)
        ema.update(module, step)
        late.update_if(torch.tensor(True), module, step)
        late.update_if(torch.tensor(False), module, step.replace(batch_size=10**6))
        for name, average in ema.averages.items():
            for old, new in zip(expected[name], module.parameters(), strict=True):
                old.lerp_(new.detach(), 1 - ema.beta(name, step))
            assert all(torch.equal(*pair) for pair in zip(average.parameters(), expected[name], strict=True))
            others = late.averages[name].parameters()
            assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(others, expected[name], strict=True))


def test_buffers_that_change_are_copied():
    """Batch normalisation changes its buffers without a trace in their versions; a network may replace its own."""
    module = Normed()
    assert changing_buffers(module) == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    ema = HalflifeEMA(module, [0.5])
    for _ in range(2):
        module[1](torch.randn(8, 4, 2, 2))
        module[1].num_batches_tracked = module[1].num_batches_tracked + 1
        ema.update(module, step_at(0, 1, batch_size=1))
        own, copied = module[1], ema.averages["0.5"][1]
        assert all(torch.equal(*pair) for pair in zip(own.buffers(), copied.buffers(), strict=True))


class Learned(FourierEmbedding):
    """A class of a user, whose buffers may change."""


def test_constant_buffers_hold_for_the_class_that_says_so():
    assert changing_buffers(FourierEmbedding(4)) == [] and changing_buffers(Learned(4)) == ["freqs"]


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


def test_power_functions_copy_first_and_then_weigh_by_time():
    """The average of tau itself is (gamma + 1) / (gamma + 2) of the training, and deviates by the wished length."""
    module = Weights()
    ema = PowerEMA(module, [0.05, 0.1, 0.1234])
    assert list(ema.averages) == ["0.050", "0.100", "0.1234"]
    for index in range(2000):
        time = (index + 0.5) / 2000
        module.value.data.copy_(torch.tensor([time, time**2, 1.0]))
        ema.update(module, step_at(100 * index, 200000, batch_size=100))
        if index == 0:
            assert all(torch.equal(average.value, module.value) for average in ema.averages.values())
    for std, average in zip((0.05, 0.1, 0.1234), ema.averages.values(), strict=True):
        mean, square, one = average.value.tolist()
        gamma = std_to_exponent(std)
        assert mean == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-4) and one == pytest.approx(1, abs=1e-4)
        assert (square - mean**2) ** 0.5 == pytest.approx(std, rel=0.02)


def test_power_functions_where_the_device_decides_and_after_a_resume():
    torch.manual_seed(0)
    module = Normed()
    ema, late, resumed = (PowerEMA(module) for _ in range(3))
    for index in range(4):
        for parameter in module.parameters():
            parameter.data += torch.randn_like(parameter)
        step = step_at(100 * index, 10000, batch_size=100)
        ema.update(module, step)
        late.update_if(torch.tensor(True), module, step)
        late.update_if(torch.tensor(False), module, step)
        if index == 2:
            resumed.load_state_dict({name: {key: one.clone() for key, one in state.items()}
                                     for name, state in ema.state_dict().items()})  # fmt: skip
    resumed.update(module, step)
    for name, average in ema.averages.items():
        for one, two, three in zip(average.parameters(), late.averages[name].parameters(),
                                   resumed.averages[name].parameters(), strict=True):  # fmt: skip
            assert torch.allclose(one, two, atol=1e-6) and torch.equal(one, three)


@pytest.mark.parametrize("stds", [[], [0.0], [0.29], [0.1, 0.1], [float("nan")]])
def test_lengths_that_are_none(stds):
    with pytest.raises(UserError):
        PowerEMA(Weights(), stds)


def test_how_well_snapshots_determine_a_length():
    """What docs/how-to/ema.md says of 30 snapshots, of only the last ones, and of half-lives."""

    def far(times, target):
        sources = [power(std, time) for time in times for std in (0.05, 0.1)]
        return distance(sources, coefficients(sources, [target])[:, 0], target)

    whole, last = [(index + 1) / 30 for index in range(30)], [(index + 1) / 80 for index in range(75, 80)]
    assert far(whole, power(0.05, 1)) < 1e-5
    assert far(whole, power(0.075, 1)) == pytest.approx(0.001, abs=1e-4)
    assert far(whole, power(0.2, 1)) == pytest.approx(0.0073, abs=1e-4)
    assert far(whole, halflife(0.01, 1, 0.05)) == pytest.approx(0.104, abs=1e-3)
    assert far(last, power(0.2, 1)) == pytest.approx(0.516, abs=1e-3)
