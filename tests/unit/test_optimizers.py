"""Optimizers by name, learning-rate schedules, clipping, and what the loop steps."""

import copy
import json
import math

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.parallel import global_norm
from elucid.training.optim.optimizers import make_optimizer, parameter_groups
from elucid.training.optim.phase import PhaseOptimizer
from elucid.training.registry.components import make, resolved
from elucid.training.registry.names import LR_SCHEDULES, OPTIMIZERS
from tests.oracles import step_at

RATES = {"adadelta": 1.0, "sgd": 0.01, "adagrad": 0.1}


class Line(nn.Module):
    """Big enough for Muon to take its middle as a matrix."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 1, 1)
        )

    def forward(self, x):
        return self.layers(x)

    def loss(self):
        x = torch.linspace(-1, 1, 2 * 2 * 36).reshape(2, 2, 6, 6)
        return (self(x) - x.sum(1, keepdim=True)).square().mean()


def scaler(enabled=False):
    return torch.amp.GradScaler("cpu", init_scale=4.0, enabled=enabled)


def phase(model, component, schedule="constant", max_grad_norm=None, enabled=False):
    named = [(f"denoiser.{name}", one) for name, one in model.named_parameters()]
    schedule = make({"name": schedule, "warmup_kimg": 0}, "lr_schedule")
    return PhaseOptimizer(
        make_optimizer(component, named), schedule, named, scaler(enabled), max_grad_norm, "main", "Mine"
    )


def train(model, optimizer, steps, start=0):
    for index in range(start, start + steps):
        optimizer.set_lr(step_at(index + 1, 100))
        optimizer.zero_grad()
        model.loss().backward()
        assert optimizer.step_if_finite()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_fused_kernel_is_for_reduced_precision_on_a_cpu(name):
    """It has the same steps up to rounding, and is not taken if a kernel is chosen, or for another optimizer."""
    models, ends = [Line() for _ in range(2)], []
    for model, fused in zip(models, (False, True), strict=True):
        optimizer = make_optimizer({"name": name, "lr": 0.01}, model.named_parameters(), fused)
        assert {group["fused"] for group in optimizer.param_groups} == {True if fused else None}
        for _ in range(5):
            optimizer.zero_grad()
            model.loss().backward()
            optimizer.step()
        ends.append(torch.cat([one.detach().flatten() for one in model.parameters()]))
    assert torch.allclose(*ends, atol=1e-5) and not torch.allclose(ends[0], torch.zeros(()), atol=0.1)
    for component in ({"name": name, "foreach": True}, {"name": "sgd", "lr": 0.1}):
        chosen = make_optimizer(component, models[0].named_parameters(), True)
        assert not any(group.get("fused") for group in chosen.param_groups)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_and_says_its_options(name):
    model = Line()
    optimizer = phase(model, {"name": name, "lr": RATES.get(name, 0.01)})
    before = float(model.loss().detach())
    train(model, optimizer, 30)
    assert float(model.loss().detach()) < 0.8 * before
    options = resolved(optimizer.optimizer)
    again = make_optimizer(json.loads(json.dumps(options)), model.named_parameters())
    assert json.dumps(resolved(again)) == json.dumps(options)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon", "sgd"])
def test_a_state_continues_to_the_bit(name):
    component = {"name": name, "lr": 0.01}
    straight = Line()
    train(straight, phase(straight, component), 6)
    model = Line()
    first = phase(model, component)
    train(model, first, 3)
    second = phase(model, component)
    second.load_state_dict(first.state_dict())
    train(model, second, 3, start=3)
    for one, other in zip(straight.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weight_decay_spares_what_scales_or_shifts():
    named = list(Line().named_parameters())
    assert [len(group["params"]) for group in parameter_groups(named, 0)] == [6]
    decayed, spared = parameter_groups(named, 0.1)
    assert all(one.ndim > 1 for one in decayed["params"]) and all(one.ndim == 1 for one in spared["params"])
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_gradients_are_clipped_to_the_bound_and_left_alone_below_it():
    ends = []
    for bound in (None, 1e6, 1e-3):
        model = Line()
        optimizer = phase(model, {"name": "sgd", "lr": 1.0}, max_grad_norm=bound)
        before = [one.detach().clone() for one in model.parameters()]
        train(model, optimizer, 1)
        ends.append(global_norm([one.detach() - old for one, old in zip(model.parameters(), before, strict=True)]))
        assert float(optimizer.grad_norm) > 1e-3, "the norm that is logged is that before clipping"
    assert torch.equal(ends[0], ends[1]) and float(ends[2]) == pytest.approx(1e-3, rel=1e-3)
    assert float(global_norm([])) == 0


def test_gradients_that_are_not_finite():
    model = Line()
    for enabled in (False, True):
        optimizer = phase(model, {"name": "adam"}, enabled=enabled)
        weights = [one.detach().clone() for one in model.parameters()]
        optimizer.zero_grad()
        optimizer.scaler.scale(model.loss()).backward()
        model.layers[1].weight.grad[0, 0, 0, 0] = math.inf
        assert not optimizer.step_if_finite() and optimizer.diverged is not enabled
        if enabled:
            assert optimizer.scaler.get_scale() == 4
            optimizer.scaler.update()
            assert optimizer.scaler.get_scale() == 2, "the loss scale adapts"
        assert all(torch.equal(*pair) for pair in zip(weights, model.parameters(), strict=True))
    optimizer = phase(model, {"name": "adam"})
    optimizer.zero_grad()
    with pytest.raises(UserError, match="loss Mine gives the network no gradient"):
        optimizer.step_if_finite()


def test_only_a_phases_parameters_get_gradients():
    model = Line()
    named = [(name, one) for name, one in model.named_parameters() if name.startswith("layers.2")]
    optimizer = PhaseOptimizer(make_optimizer("adam", named), make("constant", "lr_schedule"), named, scaler())
    with optimizer.only_trainable(model):
        model.loss().backward()
    assert all((one.grad is not None) == name.startswith("layers.2") for name, one in model.named_parameters())
    assert all(one.requires_grad for one in model.parameters())


SHAPES = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "inverse_sqrt": lambda progress: 1 / math.sqrt(max(progress / 0.2, 1)),
}


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_schedules_have_their_closed_form(name):
    total = 10**7
    more = {"reference_mimg": 2.0} if name == "inverse_sqrt" else {}
    plain = make({"name": name, "warmup_kimg": 0, **more}, "lr_schedule")
    whole = make({"name": name, "warmup_kimg": 1000, "cooldown": 0.25, **more}, "lr_schedule")
    for progress in (0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 0.9, 1.0):
        step, shape = step_at(round(progress * total), total), SHAPES[name](progress)
        assert plain(step) == pytest.approx(shape, abs=1e-9)
        assert whole(step) == pytest.approx(shape * min(progress / 0.1, 1) * min((1 - progress) / 0.25, 1), abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "component", "named"),
    [
        ("lr_schedule", {"name": "constant", "warmup_kimg": -1}, "warmup_kimg=-1"),
        ("lr_schedule", {"name": "constant", "cooldown": 2}, "cooldown=2"),
        ("lr_schedule", {"name": "cosine", "final": 2}, "final=2"),
        ("lr_schedule", {"name": "inverse_sqrt", "reference_mimg": 0}, "reference_mimg=0"),
        ("lr_schedule", {"name": "cosin"}, "did you mean 'cosine'"),
        ("optimizer", {"name": "adam", "lr": -1.0}, "optimizer adam"),
        ("optimizer", {"name": "adam", "betas": [0.9]}, r"betas=\[0.9\]"),
        ("optimizer", {"name": "adm"}, "did you mean 'adam'"),
        ("optimizer", {"name": "adam", "lrr": 1}, "lrr"),
    ],
)
def test_bad_options_are_one_line(kind, component, named):
    with pytest.raises(UserError, match=named) as refusal:
        make_optimizer(component, Line().named_parameters()) if kind == "optimizer" else make(component, kind)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("saved", [torch.contiguous_format, torch.channels_last])
def test_moments_and_gradients_lie_in_memory_as_their_weights(saved):
    """The fused kernel goes through memory and asks for no strides: another memory format would mix values up."""
    ends, state = [], {}
    for fused in (False, True):
        line = Line().to(memory_format=torch.channels_last)
        for again in range(2):
            optimizer = make_optimizer({"name": "adam", "lr": 0.01}, line.named_parameters(), fused)
            phase = PhaseOptimizer(optimizer, make("constant", "lr_schedule"), list(named(line)), scaler())
            if again:
                phase.load_state_dict(state)
            for step in range(2):
                for index, parameter in enumerate(line.parameters()):
                    torch.manual_seed(10 * step + index)
                    parameter.grad = torch.randn(parameter.shape)  # channels first
                phase.step_if_finite()
            state = copy.deepcopy(phase.state_dict())
            for values in state["state"].values():
                for name, value in values.items():
                    values[name] = value.contiguous(memory_format=saved) if value.ndim == 4 else value
        ends.append(torch.cat([one.detach().flatten() for one in line.parameters()]))
    assert torch.allclose(*ends, rtol=1e-5, atol=1e-6)


def named(module):
    return [(f"denoiser.{name}", parameter) for name, parameter in module.named_parameters()]
