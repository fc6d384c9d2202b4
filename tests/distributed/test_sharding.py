"""Two processes that share out a model train it as one process does that has it whole."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests import scripts
from tests.distributed import shard_worker as worker


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for index in range(24):
        path = folder / str(index % 2) / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def of_two(data, tmp_path_factory):
    """What two processes found, by case."""
    folder = tmp_path_factory.mktemp("found")
    scripts.run("tests/distributed/shard_worker.py", data, folder, processes=2)
    return {case: torch.load(folder / f"{case}.pt", weights_only=True) for case in worker.CASES}


@pytest.fixture(scope="module")
def of_one(data):
    return {case: worker.fixed_draws(case, str(data), False) for case in worker.ALONE if case != "resumed"}


def assert_close(one: dict, other: dict, loss: float, weights: float):
    assert one["loss"] == pytest.approx(other["loss"], abs=loss)
    assert one["norm"] == pytest.approx(other["norm"], rel=100 * loss)
    assert one["averages"].keys() == other["averages"].keys() and len(one["averages"]) == 2
    for name, average in one["averages"].items():
        assert list(average) == list(other["averages"][name])
        for key, value in average.items():
            assert torch.allclose(value, other["averages"][name][key], rtol=0, atol=weights), (name, key)


@pytest.mark.parametrize("case", ["plain", "passes"])
def test_two_processes_train_as_one(case, of_one, of_two):
    assert len(set(of_one[case]["loss"])) == worker.STEPS, "it trains"
    assert_close(of_two[case]["sharded"], of_one[case], loss=1e-5, weights=2e-4)


@pytest.mark.parametrize("case", ["bf16", "cdm", "phases"])
def test_shared_out_or_whole_on_each(case, of_two):
    """Dropout, several evaluations in a step, paths without gradient, parameters of the loss and phases."""
    assert_close(of_two[case]["sharded"], of_two[case]["whole"], loss=1e-4 if case == "bf16" else 1e-5, weights=2e-3)


def test_a_state_goes_on_to_the_bit(of_two):
    assert_close(of_two["resumed"]["sharded"], of_two["plain"]["sharded"], loss=0, weights=0)


def test_what_a_process_of_many_holds(data):
    """8, 64 and 512 processes: of everything that training keeps, a process has its share of the whole model."""
    roles = ["8:0:1", "64:0:1", "512:0:64", "512:0:1"]
    done = scripts.run("tests/distributed/fake_group.py", data, *roles)
    found = json.loads(done.stdout.splitlines()[-1])
    for role, held in found.items():
        world, _, group = map(int, role.split(":"))
        assert held["gradients"] == held["weights"] and held["moments"] == held["averages"] == 2 * held["weights"], role
        # FSDP2 cuts along the first dimension: there are no more parts than that has rows.
        parts = min(world if group == 1 else group, 64)
        assert held["weights"] == pytest.approx(held["whole"] / parts, rel=0.1), role
