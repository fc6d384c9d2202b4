"""Two processes, and accumulation, give the gradient of one process on the whole batch."""

import pytest
import torch

from tests import scripts

WORKERS = "tests/distributed"


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """By number of processes and of accumulated passes."""
    folder = tmp_path_factory.mktemp("gradients")
    for processes in (1, 2):
        scripts.run(f"{WORKERS}/gradient_worker.py", folder / f"{processes}.pt", 1, 2, processes=processes)
    files = {processes: torch.load(folder / f"{processes}.pt", weights_only=True) for processes in (1, 2)}
    return {(processes, key): value for processes, file in files.items() for key, value in file.items()}


@pytest.mark.parametrize("processes, passes", [(1, 2), (2, 1), (2, 2), (2, "all used"), (2, "static")])
def test_gradient_is_that_of_one_process(gradients, processes, passes):
    whole, gradient = gradients[1, 1], gradients[processes, passes]
    assert gradient.keys() == whole.keys()
    total = torch.cat([value.flatten() for value in whole.values()])
    difference = torch.cat([(gradient[name] - value).flatten() for name, value in whole.items()])
    assert total.norm() > 0
    assert difference.norm() / total.norm() < 1e-5


@pytest.mark.parametrize("case", ["aligned", "until"])
def test_gradient_with_alignment_is_that_of_one_process(gradients, case):
    """Without a search for unused parameters, of which there are none, also after the term has ended."""
    whole, gradient = gradients[1, case], gradients[2, case]
    assert gradient.keys() == whole.keys() and sum("projectors" in name for name in whole) == 12
    for name, value in whole.items():
        assert torch.allclose(gradient[name], value, rtol=1e-4, atol=1e-6 * value.abs().max()), name
        assert bool(value.any()) == (case == "aligned" or "projectors" not in name), name


@pytest.mark.parametrize("case", ["mean_flow", "scm"])
def test_gradient_with_forward_derivatives_is_that_of_one_process(gradients, case):
    """To 1e-6: derivatives do not bypass the exchange, nor does a learned weighting beside them."""
    whole, gradient = gradients[1, case], gradients[2, case]
    assert gradient.keys() == whole.keys() and any("uncertainty" in name for name in whole) == (case == "scm")
    assert any("map_sigma_to" in name for name in whole) == (case == "mean_flow")
    assert all(value is not None and value.any() for value in whole.values())
    total, other = (torch.cat([tree[name].flatten() for name in whole]) for tree in (whole, gradient))
    assert (other - total).norm() < 1e-6 * total.norm()


def test_gradient_in_bf16_is_that_of_one_process(gradients):
    """Up to bf16's rounding; the gradients themselves are float32."""
    whole, one, both = gradients[1, 1], gradients[1, "bf16"], gradients[2, "bf16"]
    assert whole.keys() == one.keys() == both.keys()
    total, first, second = (torch.cat([tree[name].flatten() for name in whole]) for tree in (whole, one, both))
    assert first.dtype == second.dtype == torch.float32
    assert 1e-4 < (first - total).norm() / total.norm() < 0.03
    assert (first - second).norm() / total.norm() < 0.02


def test_layers_in_bf16_that_a_step_does_not_use(gradients):
    """Nothing hangs, both processes have the same, and what none uses has no gradient."""
    first, second = gradients[2, "unused"]
    for step, (one, other) in enumerate(zip(first, second, strict=True)):
        assert one.keys() == other.keys() and len(one) == (4 if step < 3 else 2)
        assert all(torch.equal(one[name], other[name]) and one[name].any() for name in one)


def test_buffers_are_sent_only_if_they_change(gradients):
    """All processes have those of the first."""
    for case, sent in (("constant", False), ("changing", True)):
        first, second = gradients[2, "buffers"][case]
        assert bool(first.pop("sent")) == bool(second.pop("sent")) == sent
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_parameters_that_a_step_does_not_use(tmp_path):
    """Neither hangs nor ends the run in its second step; none counts as zero, and both processes have the same."""
    for processes in (1, 2):
        scripts.run(f"{WORKERS}/unused_worker.py", tmp_path, 1, 2, processes=processes)
    for passes in (1, 2):
        histories = (torch.load(tmp_path / f"{passes}-{file}.pt", weights_only=True) for file in ("1-0", "2-0", "2-1"))
        for step, (whole, one, other) in enumerate(zip(*histories, strict=True)):
            assert whole.keys() == one.keys() == other.keys(), step
            assert ("b" in whole) == (step != 1) and ("c" in whole) == (passes == 2) and ("e" in whole) == (step == 2)
            for name, value in whole.items():
                assert torch.allclose(one[name], value, rtol=1e-6), (step, name)
                assert torch.equal(one[name], other[name]), (step, name)
