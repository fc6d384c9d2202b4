"""Recorded calls of a network: the bits of ordinary ones, no waits, and what cannot be recorded is called as before."""

import pytest
import torch

from elucid.torch_utils.determinism import deterministic
from elucid.torch_utils.graphs.recording import Recording, Recordings, recorded
from elucid.training.loop import train_step
from tests.cuda.runs import CPU, DEVICE, RECIPES, away_from_the_start, new_run, no_waits

STEPS = 6

if DEVICE == CPU:
    pytest.skip("there are no graphs on the CPU", allow_module_level=True)


def trained(folder, recipe: str, records: bool, **loop) -> tuple[list[torch.Tensor], list]:
    """Weights and averages after some steps, the last of which waits for nothing; and what was recorded."""
    run = new_run(folder, RECIPES[recipe], deterministic=True, **loop)
    away_from_the_start(run.denoiser.model)
    model = run.denoiser.model
    with deterministic(True, DEVICE), recorded([model] if records else []):
        for _ in range(STEPS):
            train_step(run, run.objective)
        with no_waits():
            train_step(run, run.objective)
        made = list(model._compiled_call_impl.seen.values()) if records else []
    run.stream.close()
    kept = [one for average in run.ema.averages.values() for one in average.parameters()]
    return [one.detach().clone() for one in (*run.denoiser.parameters(), *kept)], made


@pytest.mark.parametrize("recipe", ["edm", "adm", "cdm", "patch", "hybrid"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_has_the_same_bits(recipe, precision, tmp_path):
    """With dropout, whose random numbers go on from call to call."""
    plain, _ = trained(tmp_path, recipe, False, precision=precision, batch_gpu=4)
    again, made = trained(tmp_path, recipe, True, precision=precision, batch_gpu=4)
    assert sum(isinstance(one, Recording) for one in made) >= 1
    assert all(torch.equal(*pair) for pair in zip(plain, again, strict=True))


def network_and_input():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.SiLU()).to(DEVICE), torch.randn(4, 8, device=DEVICE)


def test_two_passes_at_once():
    """A call before the backward pass of another keeps that one's activations."""
    network, x = network_and_input()
    wanted = [p.clone() for p in torch.autograd.grad((network(x) * network(2 * x)).sum(), list(network.parameters()))]
    with recorded([network]):
        for _ in range(4):
            found = torch.autograd.grad((network(x) * network(2 * x)).sum(), list(network.parameters()))
            assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, wanted, strict=True))
        for _ in range(3):
            network(x)  # forgotten without a backward pass
        assert all(
            isinstance(one, Recording) and one.flight is None for one in network._compiled_call_impl.seen.values()
        )


def test_changed_and_moved_weights_are_seen():
    network, x = network_and_input()
    with recorded([network]), torch.no_grad():
        for _ in range(3):
            network(x)
        network[0].weight.mul_(2)
        assert torch.allclose(network(x), network._call_impl(x))
        network[0].weight.data = network[0].weight.data * 3
        for _ in range(3):
            assert torch.allclose(network(x), network._call_impl(x))


class Asks(torch.nn.Module):
    def forward(self, x):
        return x * float(x.sum())


def test_what_cannot_be_recorded_is_called():
    """A network that asks the device for a value."""
    network, x = Asks(), torch.ones(4, 8, device=DEVICE)
    with recorded([network]), torch.no_grad():
        for value in (1.0, 2.0, 3.0, 4.0):
            assert torch.equal(network(x * value), x * value * value * 32)
        assert isinstance(network._compiled_call_impl, Recordings)


def test_no_second_derivatives():
    network, x = network_and_input()
    with recorded([network]):
        for _ in range(3):
            network(x).sum().backward()
        with pytest.raises(RuntimeError, match="second derivatives"):
            torch.autograd.grad(network(x).square().sum(), network[0].weight, create_graph=True)
