"""Compiled on CUDA: the same numbers, one graph for each kind of block, none for sampling."""

import pytest
import torch
from torch._dynamo.utils import counters

from elucid.training.loop import accumulate_gradients, train_step
from elucid.training.noise.schedules import Karras
from elucid.training.sampling.generate import generate
from tests.cuda.runs import CIFAR, DEVICE, NETWORK, away_from_the_start, new_run, no_waits
from tests.unit.test_compilation import signatures

SMOOTH = {**CIFAR, "network": {**NETWORK, "dropout": 0.0}}
TOLERANCES = {"fp32": (1e-4, 1e-3), "bf16": (1e-2, 5e-2)}
"""Relative errors of loss and gradient; in bf16, fused operations round less often."""


@pytest.fixture
def run(tmp_path, request):
    run = new_run(tmp_path, SMOOTH, precision=request.param)
    away_from_the_start(run.denoiser.model)
    torch._dynamo.reset()
    counters.clear()
    yield run
    run.stream.close()
    torch._dynamo.reset()


def graphs() -> int:
    """Graphs that were made since the fixture, without that of the first trial."""
    return counters["stats"]["unique_graphs"] - 1


def pass_of(run) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the batch at the beginning, with the same random numbers each time."""
    run.stream.position = 0
    torch.manual_seed(3)
    accumulate_gradients(run, run.objective, run.step.replace(phase="main"))
    gradient = torch.cat([one.grad.detach().double().flatten() for one in run.denoiser.parameters()])
    return run.stats.collect()["Loss/loss"]["mean"], gradient


@pytest.mark.parametrize("run", TOLERANCES, indirect=True)
def test_compiled_training_is_that_uncompiled_in_few_graphs(run):
    said, (loss_error, gradient_error) = [], TOLERANCES[run.loop.precision]
    loss, gradient = pass_of(run)
    run.stats.collect()
    promised = len(signatures(run.denoiser.model, lambda: pass_of(run)))
    run.stats.collect()
    with run.denoiser.compiled(said.append):
        same_loss, same_gradient = pass_of(run)
        assert graphs() == promised and said == []
        for _ in range(3):
            train_step(run, run.objective)
        with no_waits():
            train_step(run, run.objective)
        assert graphs() == promised
        average = next(iter(run.ema.averages.values()))
        how = {"device": DEVICE, "schedule": Karras(2)}
        for count in (2, 3):
            next(generate(average, run.encoder, range(count), **how))
        train_step(run, run.objective)
        assert graphs() == promised and said == []
    assert same_loss == pytest.approx(loss, rel=loss_error)
    assert (same_gradient - gradient).norm() <= gradient_error * gradient.norm()
