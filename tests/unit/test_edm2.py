"""EDM2's network and learned weighting: magnitudes, forced norms, changes that can be undone one by one."""

import copy
import math

import pytest
import torch

from elucid.dnnlib.config import parse_chain
from elucid.dnnlib.errors import UserError
from elucid.training.config.build import build, make_network
from elucid.training.losses.by_level import training_levels
from elucid.training.losses.dsm import DSM
from elucid.training.networks.attention import jvp
from elucid.training.networks.edm2.blocks import EDM2Block
from elucid.training.networks.edm2.layers import UnitLayer
from elucid.training.networks.edm2.magnitude import unit_magnitude
from elucid.training.networks.edm2.unet import EDM2UNet
from elucid.training.noise.distributions import LogNormal
from elucid.training.registry.components import make
from elucid.training.snapshots.records import describe_denoiser, rebuild_denoiser
from elucid.training.types import Batch, NetSpec
from tests.oracles import GaussianDenoiser, step_at

SMALL = {"name": "edm2", "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "channels_per_head": 16}
SPEC = NetSpec((16, 16), 3, vector={"labels": 4})
UNDONE = {
    "biases": True,
    "constant_channel": False,
    "embedding_type": "positional",
    "cosine_attention": False,
    "normalised_weights": False,
    "forced_weights": False,
    "group_norm": True,
    "pixel_norm": False,
    "unit_functions": False,
}


def network(**options) -> EDM2UNet:
    torch.manual_seed(0)
    return make_network({**SMALL, **options}, SPEC)


def built(loss: str = "uncertainty(edm)", precond: str = "edm2", spec: NetSpec = SPEC, name: str = "edm2", **options):
    torch.manual_seed(0)
    small = {**SMALL, **options} if name == "edm2" else {"name": name, "model_channels": 8, "channel_mult": [1, 2]}
    parts = {"encoder": {"name": "rgb"}, "augment": None, "network": small, "precond": {"name": precond}}
    return build({**parts, "loss": parse_chain(loss)}, spec)


def batch(count: int = 4, size: int = 16) -> Batch:
    return Batch(torch.randn(count, 3, size, size) * 0.5, {"labels": torch.eye(4)[:count]})


def inputs(count: int = 4):
    return torch.randn(count, 3, 16, 16), torch.randn(count) / 2, {"labels": torch.eye(4)[:count]}


def norms_of(module) -> dict[str, float]:
    """The lengths of the rows of each weight in units of the root of their fan-in: smallest and largest deviation."""
    return {
        name: float((one.weight.detach().flatten(1).norm(dim=1) / math.sqrt(one.fan_in) - 1).abs().max())
        for name, one in module.named_modules()
        if isinstance(one, UnitLayer)
    }


def magnitudes(net: EDM2UNet) -> dict[str, float]:
    found, handles = {}, []
    for name, module in net.named_modules():
        if isinstance(module, EDM2Block):

            def note(module, args, out, name=name):
                found[name] = float(out.detach().square().mean().sqrt())

            handles.append(module.register_forward_hook(note))
    net(*inputs())
    for handle in handles:
        handle.remove()
    return found


def test_a_fresh_network_keeps_magnitudes_and_returns_zero():
    net = network(channel_mult=[1, 2, 2], num_blocks=3).eval()
    found = magnitudes(net)
    assert len(found) == 27 and all(0.5 < value < 2 for value in found.values()), found
    assert max(norms_of(net).values()) < 1e-3
    assert not net(*inputs()).any()


@pytest.mark.parametrize("option", UNDONE)
def test_each_change_can_be_undone_alone(option):
    """It trains, another output and the same interface."""
    nets = [network(**options) for options in ({}, {option: UNDONE[option]})]
    outs = []
    for net in nets:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
        net.after_step(step_at())
        torch.manual_seed(2)
        out = net(*inputs())
        out.square().sum().backward()
        assert out.shape == (4, 3, 16, 16) and all(one.grad is not None for one in net.parameters())
        outs.append(out.detach())
    assert torch.isfinite(outs[1]).all() and not torch.equal(*outs)
    forced = option not in ("normalised_weights", "forced_weights")
    assert (max(norms_of(nets[1]).values()) < 1e-3) == forced


def test_without_pixel_norm_weights_and_functions_magnitudes_are_lost():
    """What the changes are for: plain sums grow from block to block."""
    plain = magnitudes(network(num_blocks=4, unit_functions=False, pixel_norm=False))
    assert max(plain.values()) > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"res_balance": 1.5}, "res_balance=1.5"),
        ({"concat_balance": -0.1}, "concat_balance=-0.1"),
        ({"clip_act": 0}, "clip_act=0"),
        ({"embedding_type": "sine"}, "embedding_type='sine'"),
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"channel_mult_emb": 0}, "channel_mult_emb=0"),
        ({"resample_filter": [0, 0]}, "resample_filter"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        network(**options)


def test_norms_are_forced_once_for_all_passes():
    """Two accumulated passes see the same weights; the step after them brings the norms back, and the head's too."""
    parts = built()
    denoiser, loss = parts.denoiser.train(), parts.loss
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.05)
    denoiser.model.out_gain.data.fill_(1.0)  # at its first value, 0, weights get no gradient
    for index in range(3):
        before = copy.deepcopy(denoiser.state_dict())
        for _ in range(2):
            loss(denoiser, batch(), step_at(index)).loss.mean().backward()
        assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())
        optimizer.step()
        assert max(norms_of(denoiser).values()) > 1e-2
        denoiser.after_step(step_at(index))
        assert max(norms_of(denoiser).values()) < 1e-3


def test_a_scale_of_the_weights_changes_nothing():
    net = network()
    net.out_gain.data.fill_(1.0)
    torch.manual_seed(1)
    x = inputs()
    before = net(*x)
    for module in net.modules():
        if isinstance(module, UnitLayer):
            module.weight.data.mul_(7)
    assert (net(*x) - before).norm() < 1e-3 * before.norm()


def test_its_derivative_along_the_input_is_that_of_differences():
    net = network().double().eval()
    net.out_gain.data.fill_(1.0)
    x, c_noise, cond = (
        inputs(2)[0].double(),
        torch.tensor([0.1, -0.3]).double(),
        {"labels": torch.eye(4)[:2].double()},
    )
    along = torch.randn_like(x)
    _, tangent = jvp(lambda one: net(one, c_noise, cond), (x,), (along,))
    eps = 1e-5
    differences = (net(x + eps * along, c_noise, cond) - net(x - eps * along, c_noise, cond)) / (2 * eps)
    assert torch.allclose(tangent, differences, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["uncertainty(edm)", "uncertainty(cdm(edm))", "uncertainty(patch(edm))"])
@pytest.mark.parametrize("name", ["edm2", "ddpmpp"])
def test_weighting_divides_the_loss_of_any_base_and_network(loss, name):
    parts = built(loss, "edm", name=name)
    denoiser, one = parts.denoiser.train(), batch()
    assert denoiser.spec.logvar_features == 128 and denoiser.uncertainty is not None
    torch.manual_seed(3)
    base = parts.loss.base(denoiser, one, step_at())
    torch.manual_seed(3)
    out = parts.loss(denoiser, one, step_at())
    assert torch.equal(out.terms["loss"], base.terms["loss"])
    elements = round((base.loss[0] / base.terms["loss"][0]).item())
    assert torch.allclose(out.loss, base.loss / out.terms["u"].exp() + elements * out.terms["u"], rtol=1e-5)
    out.loss.sum().backward()
    assert denoiser.uncertainty.linear.weight.grad.norm() > 0


def test_it_learns_the_logarithm_of_the_loss():
    """A denoiser that is not trained has a loss that is known at each level; u finds it."""
    torch.manual_seed(0)
    denoiser = GaussianDenoiser(shape=(1, 4, 4), bias=0.7)
    with_head = build_head(denoiser)
    loss = make({"name": "uncertainty", "base": {"name": "edm"}}, "loss")
    optimizer = torch.optim.Adam(with_head.uncertainty.parameters(), lr=0.05)
    for index in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / math.sqrt(1 + index / 20)
        out = loss(with_head, Batch(denoiser.data(256)), step_at())
        optimizer.zero_grad()
        out.loss.mean().backward()
        optimizer.step()
        with_head.after_step(step_at())
    sigmas = training_levels(LogNormal(), denoiser, 5).to(torch.float32)
    images = denoiser.data(4096)
    losses = [
        DSM(LogNormal()).evaluate(denoiser, Batch(images), torch.full((4096, 1, 1, 1), float(sigma))).error.mean()
        for sigma in sigmas
    ]
    learned = with_head.uncertainty(sigmas.log() / 4).exp()
    assert learned.tolist() == pytest.approx([float(one) for one in losses], rel=0.2)


def build_head(denoiser: GaussianDenoiser) -> GaussianDenoiser:
    """The same denoiser with a head, whose own predictions know nothing of it."""
    from elucid.training.networks.edm2.uncertainty import Uncertainty

    denoiser.uncertainty = Uncertainty(128)
    plain = type(denoiser).forward

    class WithHead(GaussianDenoiser):
        def forward(self, x, sigma, cond=None):
            out = plain(self, x, sigma, cond)
            out.logvar = self.uncertainty(torch.as_tensor(sigma).reshape(-1).log() / 4).expand(len(x))
            return out

    denoiser.__class__ = WithHead
    return denoiser


def test_a_snapshot_keeps_the_head_and_lacks_nothing():
    denoiser = built().denoiser.eval()
    denoiser.model.out_gain.data.fill_(0.5)
    record = describe_denoiser(denoiser)
    again = rebuild_denoiser(record)
    x, sigma, cond = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 3.0]), {"labels": torch.eye(4)[:2]}
    one, other = denoiser(x, sigma, cond), again(x, sigma, cond)
    assert torch.equal(one.x0, other.x0) and torch.equal(one.logvar, other.logvar) and one.logvar.shape == (2,)
    assert max(norms_of(again).values()) < 1e-3
    del record["state"]["uncertainty.linear.weight"]
    with pytest.raises(UserError, match=r"lacks the weights uncertainty\.linear\.weight"):
        rebuild_denoiser(record)
    plain = describe_denoiser(built("edm", "edm").denoiser)
    assert "logvar_features" not in plain["spec"], "earlier versions read it"
    with pytest.raises(UserError, match="features"):
        rebuild_denoiser({**plain, "spec": {**plain["spec"], "logvar_features": -1}})


@pytest.mark.parametrize(("shape", "dims"), [((5, 7), (1,)), ((4, 3, 3, 3), (1, 2, 3)), ((2, 6, 4, 4), (1,))])
def test_gradients_of_magnitudes_are_those_of_differences(shape, dims):
    """First and second ones; a row of zeros has the gradient of a division by the smallest number, eps."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda one: unit_magnitude(one, dims, 1e-2, 0.7), x)
    assert torch.autograd.gradgradcheck(lambda one: unit_magnitude(one, dims, 1e-2, 0.7), x)
    zeros = torch.zeros(shape, requires_grad=True)
    unit_magnitude(zeros, dims, 1e-2).sum().backward()
    assert torch.allclose(zeros.grad, torch.full(shape, 100.0))


@pytest.mark.parametrize(("width", "heads"), [(56, 2), (50, 2), (64, 4), (12, 0)])
def test_heads_divide_the_width_and_have_enough_channels(width, heads):
    net = network(model_channels=width, channel_mult=[1], attn_resolutions=[16])
    assert {block.heads for block in net.dec.values() if block.heads} == ({heads} if heads else set())
    net(*inputs())


def test_gradients_of_a_magnitude_at_zero_are_the_same_in_all_modes():
    zeros = torch.zeros(1, 4, 2, 2)
    [eager] = torch.autograd.grad(unit_magnitude(one := zeros.clone().requires_grad_(), (1,)).sum(), one)
    transformed = torch.func.grad(lambda x: unit_magnitude(x, (1,)).sum())(zeros)
    assert torch.equal(eager, transformed) and eager.isfinite().all()


def test_half_precision_gradients_do_not_overflow_at_small_magnitudes():
    torch.manual_seed(0)
    x, dy = torch.randn(1, 64, 2, 2) * 1e-3, torch.randn(1, 64, 2, 2)
    grads = []
    for dtype in (torch.float64, torch.float16):
        one = x.half().to(dtype).requires_grad_()
        unit_magnitude(one, (1,)).backward(dy.half().to(dtype))
        grads.append(one.grad.double())
    assert (grads[1] - grads[0]).norm() < 2e-3 * grads[0].norm()
