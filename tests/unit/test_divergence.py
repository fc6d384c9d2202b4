"""Divergence: steps that are not finite are found without a word between processes, counted, and traced to a layer."""

import math

import pytest
import torch

from elucid.training.divergence import LEAST_TICKS, Divergence, first_bad_module, summed
from elucid.training.objective import Objective
from elucid.training.types import Batch, LossOutput, Step
from tests.oracles import GaussianDenoiser

STEP = Step(index=3, nimg=96, total_nimg=1000, seed=0, batch_size=32)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_has_no_finite_gradient(bad):
    """Also where its own gradient would be finite, so that all processes see it in theirs."""
    weight = torch.ones(3, requires_grad=True)
    summed(weight + torch.tensor([0, bad, 0])).backward()
    assert weight.grad.isnan().all()


def test_a_finite_loss_is_its_sum_to_the_bit():
    loss = torch.randn(100, requires_grad=True)
    total = summed(loss)
    total.backward()
    assert torch.equal(total, loss.detach().sum()) and torch.equal(loss.grad, torch.ones(100))


def test_only_steps_in_a_row_are_too_many():
    said = []
    divergence = Divergence(3, said.append)
    for phases in (["main"], ["main"], [], ["main"], ["main"]):
        divergence.count(phases, STEP)
        assert not divergence.too_many
    divergence.count(["critic"], STEP)
    assert divergence.too_many and divergence.left_out == 5
    assert "step 3, at 0.1 kimg" in said[0] and "of critic" in said[-1]
    other = Divergence(3, said.append)
    other.load_state_dict(divergence.state_dict())
    assert other.state_dict() == divergence.state_dict()


def test_what_the_device_knows_is_counted_a_step_later():
    divergence, at = Divergence(3, lambda text: None), (Batch(torch.zeros(1, 1, 2, 2)), STEP)
    divergence.last = at
    divergence.note({"main": torch.tensor(True), "critic": False}, STEP)
    divergence.last = None
    assert divergence.left_out == 0
    divergence.note({"main": torch.tensor(False)}, STEP)
    assert (divergence.left_out, divergence.in_a_row, divergence.bad) == (1, 1, at)
    assert divergence.state_dict()["in_a_row"] == 0, "a state is saved of what is settled"


def test_a_loss_far_outside_its_history_is_said_once_it_has_one():
    said = []
    divergence = Divergence(3, said.append)
    for tick in range(LEAST_TICKS):
        divergence.watch(1 + 0.01 * (-1) ** tick if tick != 2 else 50.0, tick)  # an outlier does not widen the rule
    assert not said, "too little history"
    for fine in (1.0, 1.15, 0.2, math.nan, None):
        divergence.watch(fine, 10)
    assert not said
    divergence.watch(1.3, 10.5)
    assert len(said) == 1 and "10.5 kimg is 1.3, far above the median 1" in said[0]


class Stack(torch.nn.Module):
    """A denoiser-like network whose second layer overflows."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (torch.nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        return self.third(self.second(self.first(x)))


class OfStack(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stack = Stack()

    def forward(self, denoiser, batch, step):
        return LossOutput(self.stack(batch.images).square().sum((1, 2, 3)))


def test_the_first_bad_module_is_named():
    objective = Objective(GaussianDenoiser(), OfStack())
    batch = Batch(torch.randn(2, 1, 4, 4))
    assert first_bad_module(objective, batch, STEP) == ""
    with torch.no_grad():
        objective.loss.stack.second.weight.fill_(3e38)
    assert first_bad_module(objective, batch, STEP).endswith("is that of loss.stack.second")
