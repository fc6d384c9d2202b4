"""Working weights: the same numbers as casts at each use, from fewer casts."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from elucid.torch_utils.weights.working import working_weights
from elucid.training.config.build import make_denoiser
from elucid.training.loop import train_step
from elucid.training.networks.attention import forward_derivatives, jvp
from elucid.training.networks.layers import Conv2d
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.saving import on_host
from elucid.training.types import NetSpec
from tests import transformers
from tests.device.workers import CIFAR, new_run, pictures

SPEC = NetSpec((8, 8), 3, vector={"labels": 4})
SMALL = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
NETWORKS = {
    "ddpmpp": SMALL,
    "ncsnpp": SMALL,
    "adm": {**SMALL, "model_channels": 32},
    "adm_unet": {**SMALL, "model_channels": 32, "checkpoint": True},
    "jit": transformers.small("jit"),
    "ddt": transformers.small("ddt"),
}


def denoiser_of(name: str = "ddpmpp", **options) -> nn.Module:
    torch.manual_seed(0)
    network = {"name": name, **NETWORKS[name], "dropout": 0.0, **options}
    denoiser = make_denoiser(network, {"name": "edm"}, SPEC, "bf16")
    for parameter in denoiser.parameters():  # away from the zeros of the initialisation
        torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def batch() -> tuple[torch.Tensor, torch.Tensor, dict]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 8, 8, generator=generator)
    return x, torch.tensor([0.1, 1.0, 5.0]), {"labels": torch.eye(4)[:3]}


def result(denoiser: nn.Module, passes: int = 1) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Outputs, and the gradient over some passes, of which the last uses the denoiser twice."""
    denoiser.zero_grad(set_to_none=True)
    outs = []
    for _ in range(passes):
        x, sigma, cond = batch()
        out = denoiser(x, sigma, cond).x0
        again = denoiser(out, sigma / 2, cond).x0
        (out.square().sum() + again.sum()).backward()
        outs += [out, again]
    return outs, {name: one.grad for name, one in denoiser.named_parameters() if one.grad is not None}


class Casts(TorchDispatchMode):
    """Counts conversions to another type, one by one or in lists."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        converts = name == "_to_copy" and (kwargs or {}).get("dtype") not in (None, args[0].dtype)
        self.count += converts or name == "_foreach_copy_"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_casts_at_each_use(name):
    """Bit by bit, in a first context, a second one and a third, after the weights have changed unseen."""
    denoiser = denoiser_of(name)
    for _ in range(3):
        outs, gradients = result(denoiser, passes=2)
        with working_weights(denoiser):
            same_outs, same_gradients = result(denoiser, passes=2)
        assert all(torch.equal(one, other) for one, other in zip(outs, same_outs, strict=True))
        assert gradients.keys() == same_gradients.keys()
        assert [key for key in gradients if not torch.equal(gradients[key], same_gradients[key])] == []
        for parameter in denoiser.parameters():
            parameter.data.mul_(1.1)  # `.data` does not tell the weights of it


def test_casts_are_made_once():
    denoiser = denoiser_of("adm_unet", checkpoint=False)
    weights = len(list(denoiser.parameters()))
    with Casts() as each:
        result(denoiser, passes=2)
    with working_weights(denoiser), torch.no_grad():
        denoiser(*batch())  # finds the weights to cast
    with working_weights(denoiser), Casts() as once:
        result(denoiser, passes=2)
    assert each.count > 8 * weights * 0.8  # there and back in four passes
    assert once.count < 0.5 * weights


def test_a_change_of_the_weights_within_a_step_is_seen():
    denoiser = denoiser_of()
    with working_weights(denoiser), torch.no_grad():
        before = [denoiser(*batch()).x0 for _ in range(2)]
        for parameter in denoiser.parameters():
            parameter.mul_(1.1)
        after, expected = denoiser(*batch()).x0, copy.deepcopy(denoiser)(*batch()).x0
    assert torch.equal(after, expected) and not torch.equal(after, before[1])


def test_weights_are_float32_outside_and_frozen_ones_get_no_gradient():
    denoiser = denoiser_of()
    frozen = denoiser.model.enc["8x8_conv"].weight
    with working_weights(denoiser):
        denoiser(*batch())
        frozen.requires_grad_(False)
        _, gradients = result(denoiser)
        frozen.requires_grad_(True)
        assert all(type(one) is nn.Parameter and one.dtype == torch.float32 for one in denoiser.parameters())
        assert {one.dtype for one in denoiser.state_dict().values()} == {torch.float32}
        with pytest.raises(RuntimeError):
            denoiser(torch.randn(3, 2, 8, 8), 1.0, batch()[2])
        assert all(type(one) is nn.Parameter for one in denoiser.parameters())
    assert frozen.grad is None and len(gradients) == len(list(denoiser.parameters())) - 1


def test_forward_derivatives_and_second_derivatives():
    """Of the input, with a gradient of the weights, as of casts at each use."""
    denoiser = denoiser_of()
    x, sigma, cond = batch()

    def derivatives():
        denoiser.zero_grad(set_to_none=True)
        with forward_derivatives():
            return terms()

    def terms():
        _, slope = jvp(lambda x: denoiser(x, sigma, cond).x0, (x,), (torch.ones_like(x),))
        points = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(denoiser(points, sigma, cond).x0.square().sum(), points, create_graph=True)
        (slope.sum() + gradient.square().sum()).backward()
        return [slope, gradient, *(one.grad for one in denoiser.parameters() if one.grad is not None)]

    expected = derivatives()
    with working_weights(denoiser):
        denoiser(*batch())
        assert all(torch.equal(one, other) for one, other in zip(derivatives(), expected, strict=True))


class Normed(Conv2d):
    """A layer of a user that reads its weight in another way."""

    def forward(self, x):
        weight = self.weight / self.weight.square().sum().sqrt()
        assert self.weight.dtype == torch.float32
        return F.conv2d(x, weight.to(x.dtype), self.bias.to(x.dtype), padding=1)


class Own(nn.Module):
    """A network of a user: own layers, layers of ours in both types, and layers of torch in float32."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Normed(3, 4, 3), Conv2d(4, 4, 3)
        self.scale, self.last = nn.Linear(1, 4), Conv2d(4, 3, 3)

    def forward(self, x, c_noise, cond):
        x = self.second(self.first(x)) * self.scale(c_noise[:, None])[:, :, None, None].to(x.dtype)
        return self.last(x.float())


def test_networks_of_users_keep_their_weights():
    torch.manual_seed(0)
    denoiser = EDMPrecond(Own(), NetSpec((8, 8), 3), "bf16")
    x, sigma, _ = batch()
    expected = denoiser(x, sigma).x0
    with working_weights(denoiser):
        for _ in range(2):
            assert torch.equal(denoiser(x, sigma).x0, expected)
        (copies,) = denoiser.working.copies.values()
        own = [denoiser.model.second.weight, denoiser.model.second.bias]
        assert [id(one) for one in copies.masters] == [id(one) for one in own]


def test_other_tensors_in_the_place_of_weights_are_used():
    """Those of torch.func.functional_call for a pass, and new parameters from the next context on."""
    denoiser = denoiser_of()
    others = {name: (one * 1.1).detach().requires_grad_() for name, one in denoiser.named_parameters()}
    expected = torch.func.functional_call(denoiser, others, batch()).x0
    with working_weights(denoiser, keep=True):
        before = [denoiser(*batch()).x0 for _ in range(2)]
        out = torch.func.functional_call(denoiser, others, batch()).x0
        assert torch.equal(out, expected) and torch.equal(denoiser(*batch()).x0, before[1])
        out.sum().backward()
        assert any(one.grad is not None for one in others.values())
    denoiser.load_state_dict(
        {name: nn.Parameter(one.detach()) for name, one in others.items()}, strict=False, assign=True
    )
    with working_weights(denoiser):
        assert all(torch.equal(denoiser(*batch()).x0, expected) for _ in range(2))
        assert any(one.views for one in denoiser.working.copies.values())
    assert not any(one.views for one in denoiser.working.copies.values())


def test_threads_may_share_a_network():
    denoiser = denoiser_of().eval()
    with torch.no_grad():
        expected = denoiser(*batch()).x0

    def work(_):
        with torch.no_grad(), working_weights(denoiser):
            return torch.equal(denoiser(*batch()).x0, expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))
    assert all(type(one) is nn.Parameter for one in denoiser.parameters())


def test_compiled_networks_read_them():
    """The first pass runs eagerly, the next are compiled, whose graph gets reduced weights."""
    denoiser, types = denoiser_of(), []

    def backend(graph, inputs):
        types.extend(one.dtype for one in inputs if isinstance(one, torch.Tensor) and one.ndim == 4)
        return graph.forward

    expected, gradients = result(denoiser)
    denoiser.model.compile(backend=backend)
    with working_weights(denoiser):
        result(denoiser)
        outs, found = result(denoiser)
    assert types and set(types) == {torch.bfloat16}
    assert all(torch.equal(one, other) for one, other in zip(outs, expected, strict=True))
    assert all(torch.equal(found[name], one) for name, one in gradients.items())


def test_a_resumed_run_goes_on_bit_by_bit(tmp_path):
    """Also of a loss that runs without gradient; the copies are made anew after a resume."""
    pictures(tmp_path)
    parts = {**CIFAR, "loss": {"name": "cdm", "martingale_steps": 3, "base": {"name": "edm"}}}
    runs = [new_run(tmp_path, torch.device("cpu"), parts, precision="bf16", batch_gpu=4) for _ in range(2)]
    for _ in range(2):
        train_step(runs[0], runs[0].objective)
    state = on_host(runs[0].state_dict())
    train_step(runs[0], runs[0].objective)
    for run in runs[1:]:
        run.resume(state)
        train_step(run, run.objective)
    ends = []
    for run in runs:
        run.stream.close()
        assert all(group["fused"] for group in run.optimizers["main"].optimizer.param_groups)
        averages = [one for average in run.ema.averages.values() for one in average.parameters()]
        ends.append([*run.denoiser.parameters(), *averages])
        assert {one.dtype for one in run.denoiser.state_dict().values()} == {torch.float32}
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
