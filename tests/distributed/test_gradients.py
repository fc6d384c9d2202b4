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
