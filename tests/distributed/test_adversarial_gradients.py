"""Losses with two optimizers: in each phase, two processes have the gradients of one on the whole batch."""

import pytest
import torch

from tests import scripts


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    for processes in (1, 2):
        scripts.run("tests/distributed/adversarial_worker.py", folder / f"{processes}.pt", processes=processes)
    return [torch.load(folder / f"{processes}.pt", weights_only=True) for processes in (1, 2)]


@pytest.mark.parametrize("name, other", [("dmd2", "fake"), ("adversarial", "discriminator")])
def test_gradients_of_each_phase(gradients, name, other):
    one, two = (found[name] for found in gradients)
    assert list(one) == list(two) == [f"{other}0", "main1", f"{other}2", "main3"]
    for phase, whole in one.items():
        assert whole.keys() == two[phase].keys()
        assert all(key.startswith("denoiser.") == phase.startswith("main") for key in whole)
        for key, value in whole.items():
            assert (two[phase][key] - value).norm() <= 1e-6 * value.norm() + 1e-12, (phase, key)
        assert sum(value.norm() for value in whole.values()) > 0
