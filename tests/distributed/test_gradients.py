"""Two processes, and accumulation, give the gradient of one process on the whole batch."""

import pytest
import torch

from tests import scripts

WORKER = "tests/distributed/gradient_worker.py"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "gradient.pt"
    scripts.run(WORKER, path, 1)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(("processes", "rounds"), [(1, 2), (2, 1), (2, 2)])
def test_gradient_is_that_of_one_process(tmp_path, whole, processes, rounds):
    path = tmp_path / "gradient.pt"
    scripts.run(WORKER, path, rounds, processes=processes)
    gradient = torch.load(path, weights_only=True)
    assert gradient.keys() == whole.keys()
    total = torch.cat([value.flatten() for value in whole.values()])
    difference = torch.cat([(gradient[name] - value).flatten() for name, value in whole.items()])
    assert total.norm() > 0
    assert difference.norm() / total.norm() < 1e-5


@pytest.mark.parametrize("passes", [1, 2])
def test_parameters_that_a_step_does_not_use(tmp_path, passes):
    """Neither hangs nor ends the run in its second step; none counts as zero, and both processes have the same."""
    worker = "tests/distributed/unused_worker.py"
    scripts.run(worker, tmp_path, passes)
    scripts.run(worker, tmp_path, passes, processes=2)
    alone, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for step, (whole, one, other) in enumerate(zip(alone, first, second, strict=True)):
        assert whole.keys() == one.keys() == other.keys(), step
        assert ("b" in whole) == (step != 1) and ("c" in whole) == (passes == 2) and ("e" in whole) == (step == 2)
        for name, value in whole.items():
            assert torch.allclose(one[name], value, rtol=1e-6), (step, name)
            assert torch.equal(one[name], other[name]), (step, name)
