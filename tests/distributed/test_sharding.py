"""Two processes that share out a model train it as one process does that has it whole."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.checkpoint import states_in
from elucid.training.config.settings import LoopOptions
from elucid.training.snapshots.snapshot import load_snapshot
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


@pytest.mark.parametrize("case", ["plain", "passes", "edm2", "aligned", "jit"])
def test_two_processes_train_as_one(case, of_one, of_two):
    assert len(set(of_one[case]["loss"])) == worker.STEPS, "it trains"
    assert_close(of_two[case]["sharded"], of_one[case], loss=1e-5, weights=2e-4)


def test_the_first_weights_of_a_seed_and_their_snapshot_are_the_same(of_one, of_two):
    """To the byte."""
    for case, found in of_one.items():
        assert len(found["first"]) == 64 and of_two[case]["sharded"]["first"] == found["first"]
    assert of_one["plain"]["first"] != of_one["passes"]["first"]


@pytest.mark.parametrize("case", ["bf16", "cdm", "phases", "mean_flow", "scm"])
def test_shared_out_or_whole_on_each(case, of_two):
    """Dropout, several evaluations in a step, derivatives by differences, parameters of the loss, phases."""
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


def test_the_command_and_another_number_of_processes(data, tmp_path, monkeypatch, capsys):
    """States of two processes go on in one, and snapshots are those of any run."""
    common = [
        *scripts.TINY,
        f"--data={data}",
        "--nosubdir",
        "--batch=16",
        "--tick=0.064",
        "--cache=0",
        "--keep-states=1",
    ]
    flags = ["--shard", "--checkpointing=1", "--batch-gpu=auto", "--duration=0.000064"]
    done = scripts.run("train.py", *common, *flags, f"--outdir={tmp_path}/run", processes=2, folder=tmp_path)
    assert "in 2 parts, one for each process" in done.stdout and "1 passes x 8 images" in done.stdout
    state = tmp_path / "run/training-state-000000.064.parts"
    assert len(list(state.glob("part-*.bin"))) == 2 and (tmp_path / "run/samples-000000.064.png").exists()
    two = load_snapshot(scripts.newest(tmp_path / "run"))
    code, out, err = scripts.call(
        monkeypatch, capsys, "train.py", f"--resume={state}", "--device=cpu", "--duration=0.000128"
    )
    assert code == 0 and "at 0.1 kimg" in out and "has nothing to share out" in out, err
    assert [path.name for path in states_in(tmp_path / "run")] == ["training-state-000000.128.pt"]
    one = load_snapshot(scripts.newest(tmp_path / "run"))
    assert list(one.ema.state_dict()) == list(two.ema.state_dict()) and two.ema.config == one.ema.config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shard": 3}, "`shard`=3: the 2 processes cannot be divided into groups of 3"),
        ({"shard": 1, "precision": "fp16"}, "`shard` and `precision`=fp16 exclude each other"),
        ({"shard": 1, "fused_kernels": True}, "loop.fused_kernels=true and `shard` exclude each other"),
        (
            {"fused_kernels": True, "channels_last": False},
            "loop.fused_kernels=true and loop.channels_last=false exclude each other",
        ),
        ({"shard": 1, "winograd": True}, "loop.winograd=true and `shard` exclude each other"),
        (
            {"winograd": True, "channels_last": True},
            "loop.winograd=true and loop.channels_last=true exclude each other",
        ),
        ({"shard": 1, "compile": True}, "`shard` and `compile` exclude each other"),
        ({"shard": -1}, "loop.shard=-1 must be 0 or more"),
    ],
)
def test_what_cannot_be_shared_out(options, words):
    with pytest.raises(UserError, match=words):
        LoopOptions(**options).shard_group(2)
    assert [LoopOptions(shard=one).shard_group(8) for one in (0, 1, 2, 8)] == [1, 8, 2, 8]
    assert LoopOptions(shard=8).shard_group(1) == 1
