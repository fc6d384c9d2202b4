"""Convolutions by Winograd's algorithm against torch's in float64, and where they are used."""

import json

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from elucid.training.config.run_folders import stored_options
from elucid.training.networks.attention import forward_derivatives, jvp
from elucid.training.networks.edm2.layers import UnitLayer
from elucid.training.networks.kernels import choice, winograd
from elucid.training.networks.kernels.choice import choose_kernels
from elucid.training.networks.kernels.winograd import PIXELS, conv3x3, matrices, suits
from elucid.training.networks.layers import Conv2d
from elucid.training.networks.song_unet import SongUNet
from tests.vectors import relative_error

SHAPES = {
    "square": (2, 16, 24, 8, 8),
    "one tile": (1, 3, 5, 4, 7),
    "wide": (3, 7, 2, 12, 33),
    "one column": (2, 4, 4, 8, 1),
    "many channels": (2, 256, 128, 16, 16),
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arguments(batch, n_in, n_out, height, width, dtype=torch.float32) -> tuple[torch.Tensor, ...]:
    """x, weight, bias and a gradient of the result."""
    shapes = (batch, n_in, height, width), (n_out, n_in, 3, 3), (n_out,), (batch, n_out, height, width)
    random = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=random).to(dtype) for shape in shapes]
    return *(value.requires_grad_() for value in values[:3]), values[3]


def test_the_matrices_compute_every_filter_of_every_tile():
    """sum_m A_mi G_mk B^T_ml is 1 if l = i + k, else 0: row i of the result is sum_k g_k d_(i+k)."""
    sums = torch.einsum("mi,mk,ml->ikl", *(matrix.double() for matrix in _in_order(matrices())))
    wanted = torch.zeros(4, 3, 6)
    for row in range(4):
        for tap in range(3):
            wanted[row, tap, row + tap] = 1
    assert torch.allclose(sums, wanted.double(), atol=1e-6)


def _in_order(found):
    return found.rows, found.kernels, found.tiles


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients(shape, biased):
    x, weight, bias, dy = arguments(*shape)
    inputs = (x, weight, bias) if biased else (x, weight)
    y = conv3x3(*inputs)
    y.backward(dy)
    exact = [value.detach().double().requires_grad_() for value in inputs]
    wanted = F.conv2d(*exact, padding=1)
    wanted.backward(dy.double())
    assert y.is_contiguous() and weight.grad.is_contiguous()
    assert relative_error(y.detach(), wanted.detach()) < 1e-6
    for ours, theirs in zip(inputs, exact, strict=True):
        assert relative_error(ours.grad, theirs.grad) < 2e-6


def test_only_gradients_that_are_needed_are_computed():
    seen = []
    for needed in ((0,), (1,), (0, 1), (2,)):
        *inputs, dy = arguments(2, 16, 24, 8, 8)
        for index, one in enumerate(inputs):
            one.requires_grad_(index in needed)
        y = conv3x3(*inputs)
        with FlopCounterMode(display=False) as counter:
            y.backward(dy)
        seen.append({str(op) for op in counter.get_flop_counts().get("Global", ()) if "conv" in str(op)})
    assert seen == [{"aten.convolution"}, {"aten.convolution_backward"}, set.union(*seen[:2]), set()]


def test_half_of_the_multiplications_are_left():
    x, weight, _, dy = arguments(4, 256, 256, 32, 32)
    weight.requires_grad_(False)  # torch miscounts its gradient in groups

    def flop(convolve) -> tuple[int, int]:
        with FlopCounterMode(display=False) as counter:
            y = convolve(x, weight)
            forward = counter.get_total_flops()
            y.backward(dy)
        return forward, counter.get_total_flops() - forward

    ours, torchs = flop(conv3x3), flop(lambda x, weight: F.conv2d(x, weight, padding=1))
    assert all(0.5 < mine / other < 0.52 for mine, other in zip(ours, torchs, strict=True))


def test_second_derivatives():
    def second(convolve):
        x, weight, bias, dy = arguments(2, 3, 4, 8, 8)
        first = torch.autograd.grad(convolve(x, weight, bias), (x, weight, bias), dy, create_graph=True)
        return torch.autograd.grad(sum(one.square().sum() for one in first), (x, weight))

    wanted = second(lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1))
    assert all(relative_error(*pair) < 1e-5 for pair in zip(second(conv3x3), wanted, strict=True))


def test_several_backward_passes_at_once():
    x, weight, _, _ = arguments(2, 3, 4, 8, 8)
    dys = torch.randn(3, 2, 4, 8, 8)

    def batched(convolve):
        return torch.autograd.grad(convolve(x, weight), (x, weight), dys, is_grads_batched=True)

    wanted = batched(lambda x, weight: F.conv2d(x, weight, padding=1))
    assert all(relative_error(*pair) < 1e-5 for pair in zip(batched(conv3x3), wanted, strict=True))


def test_where_it_is_used():
    x, weight = torch.randn(4, 128, 32, 32), torch.randn(128, 128, 3, 3)
    assert suits(x, weight)
    assert not suits(x.to(memory_format=torch.channels_last), weight)
    assert not suits(x.bfloat16(), weight.bfloat16()) and not suits(x.double(), weight.double())
    assert not suits(x[:, :, :30].contiguous(), weight), "30 rows are no multiple of 4"
    assert not suits(x, weight[:, :, :1, :1]) and not suits(x[:, :64].contiguous(), weight[:, :64])
    assert not suits(x.to("meta"), weight.to("meta"))
    assert not suits(x[0], weight)
    with forward_derivatives():
        assert not suits(x, weight)
    with forward_ad.dual_level():
        assert not suits(x, weight)
    few = x[:1].contiguous()
    assert PIXELS == {True: 2048, False: 1024} and not suits(few, weight)
    with torch.no_grad():
        assert suits(few, weight)
        torch.set_num_threads(2)
        assert not suits(few, weight), "too few for two threads"
    seen = []
    torch.func.vmap(lambda one: seen.append(suits(one, weight)) or one)(x[None])
    assert seen == [False]


def net(**options) -> SongUNet:
    """A wide network, whose weights that begin at 0 are random as well."""
    torch.manual_seed(0)
    network = SongUNet(
        img_resolution=32, in_channels=3, out_channels=3, model_channels=128, channel_mult=[1], num_blocks=1, **options
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def calls(monkeypatch) -> list:
    """Shapes of what `conv3x3` is called with from now on."""
    seen, apply = [], winograd.Winograd.apply
    monkeypatch.setattr(winograd.Winograd, "apply", lambda x, *rest: seen.append(tuple(x.shape)) or apply(x, *rest))
    return seen


def test_networks_choose_it(monkeypatch):
    network, seen = net(attn_resolutions=[]).eval(), calls(monkeypatch)
    x, noise = torch.randn(4, 3, 32, 32), torch.zeros(4)
    monkeypatch.setattr(choice, "faster_here", lambda: False)
    choose_kernels(network, torch.float32)
    with torch.no_grad():
        torchs = network(x, noise, {})
        assert not seen
        monkeypatch.setattr(choice, "faster_here", lambda: True)
        choose_kernels(network, torch.float32)
        ours = network(x, noise, {})
    assert len(seen) > 5 and all(shape[1] >= 128 for shape in seen)
    assert relative_error(ours, torchs) < 1e-5
    seen.clear()
    choose_kernels(network, torch.float32, winograd=False)
    assert torch.equal(network(x, noise, {}), torchs) and not seen
    choose_kernels(network, torch.bfloat16)
    assert not any(module.winograd for module in network.modules() if hasattr(module, "winograd"))


@pytest.mark.parametrize(("machine", "fast"), [("x86_64", True), ("AMD64", True), ("arm64", False), ("aarch64", False)])
def test_where_it_was_measured(machine, fast, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    winograd.faster_here.cache_clear()
    assert winograd.faster_here() == (fast and torch.backends.mkldnn.is_available())
    monkeypatch.undo()
    winograd.faster_here.cache_clear()


def test_order_in_memory():
    """Few channels lie last, unless Winograd's algorithm is asked for; many come first in any case."""
    for width, options, last in ((8, {}, True), (8, {"winograd": True}, False), (128, {"winograd": False}, False)):
        network = SongUNet(16, 3, 3, model_channels=width, channel_mult=[1], num_blocks=1, attn_resolutions=[])
        choose_kernels(network, torch.float32, **options)
        weight = network.enc["16x16_block0"].conv0.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traced_networks_can_be_stored(tmp_path):
    layer = Conv2d(128, 128, 3)
    layer.winograd = True
    torch.jit.trace(layer, torch.randn(4, 128, 32, 32)).save(tmp_path / "layer.pt")


def test_forward_derivatives_use_torchs(monkeypatch):
    network, seen = net(attn_resolutions=[]).eval(), calls(monkeypatch)
    x, noise = torch.randn(4, 3, 32, 32), torch.zeros(4)
    choose_kernels(network, torch.float32, winograd=True)
    _, derivative = jvp(lambda x: network(x, noise, {}), (x,), (x,))
    assert not seen
    choose_kernels(network, torch.float32, winograd=False)
    assert torch.equal(jvp(lambda x: network(x, noise, {}), (x,), (x,))[1], derivative)


@pytest.mark.parametrize("layer", [Conv2d(128, 128, 3), UnitLayer(128, 128, kernel=3)], ids=["Conv2d", "UnitLayer"])
def test_layers(layer, monkeypatch):
    seen, x = calls(monkeypatch), torch.randn(4, 128, 32, 32)
    torchs = layer(x)
    layer.winograd = True
    assert relative_error(layer(x).detach(), torchs.detach()) < 1e-6 and seen == [x.shape]


def test_a_stride_is_torchs(monkeypatch):
    layer, seen = Conv2d(128, 128, 3, stride=2), calls(monkeypatch)
    layer.winograd = True
    assert layer(torch.randn(4, 128, 32, 32)).shape == (4, 128, 16, 16) and not seen


def test_runs_of_earlier_versions_keep_torchs():
    names = ("encoder", "network", "precond", "loss", "optimizer", "lr_schedule", "ema", "sampler", "schedule")
    options = {"dataset": {}, "loop": {"channels_last": None}, **{name: {"name": "any"} for name in names}}
    assert stored_options({"options": json.dumps(options)})["loop"]["winograd"] is False
    options["loop"]["winograd"] = None
    assert stored_options({"options": json.dumps(options)})["loop"]["winograd"] is None
