"""Which calls of a network are recorded, told from a device that only seems to be CUDA."""

import pytest
import torch
from torch import nn

from elucid.torch_utils.graphs import recording
from elucid.torch_utils.graphs.recording import MOST_IMAGES, Recordings, recorded


class Net(nn.Module):
    recordable = True

    def forward(self, x, cond):
        return 2 * x + cond["a"]


class Derived(Net):
    pass


class Replays:
    """In the place of a recording: replays by calling the network."""

    def __init__(self, network, inputs):
        self.network, self.shape, self.replays = network, inputs[0].shape, 0

    def replay(self, tensors):
        self.replays += 1
        return self.network._call_impl(tensors[0], {"a": tensors[1]})


@pytest.fixture
def net(monkeypatch):
    monkeypatch.setattr(recording, "Recording", Replays)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    return Net().eval()


def call(net, count=2, dtype=torch.float32):
    x = torch.ones(count, 3, dtype=dtype)
    assert torch.equal(net(x, {"a": x}), 3 * x)


def made(net) -> list:
    return [one and (one.shape[0], one.replays) for one in net._compiled_call_impl.seen.values()]


def test_from_the_second_call_of_each_kind(net):
    with torch.no_grad(), recorded([net]):
        call(net)
        assert made(net) == [None]
        call(net)
        call(net)
        call(net, 4)
        assert made(net) == [(2, 2), None]
        call(net, 4)
        call(net, dtype=torch.float64)
        assert made(net) == [(2, 2), (4, 1), None]
        for _ in range(3):
            call(net, MOST_IMAGES + 1)
        assert len(made(net)) == 3
    assert net._compiled_call_impl is None


def test_not_with_gradients_nor_in_training(net):
    with recorded([net]):
        call(net)
        with torch.no_grad():
            net.train()
            call(net)
        assert made(net) == []


def test_only_classes_that_say_so_and_once(net):
    derived, compiled = Derived(), Net()
    compiled._compiled_call_impl = known = compiled._call_impl
    with recorded([net, derived, compiled]):
        own = net._compiled_call_impl
        assert isinstance(own, Recordings)
        assert derived._compiled_call_impl is None and compiled._compiled_call_impl is known
        with recorded([net]):
            assert net._compiled_call_impl is own
        assert net._compiled_call_impl is own


def test_nothing_on_the_cpu(monkeypatch):
    net = Net().eval()
    with torch.no_grad(), recorded([net]):
        call(net)
        assert made(net) == []
