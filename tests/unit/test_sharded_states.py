"""Folders of parts: what is written is read, by whoever, and nothing in them is believed or executed."""

import json
import pickle
import shutil

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import checksums
from elucid.torch_utils.checkpoint import load_state, newest_state, save_state, states_in
from elucid.torch_utils.sharding.states import fitted, save_parts
from elucid.training.config.run_folders import find_state, holds_a_run, remove_leftovers
from elucid.training.saving import superseded

KINDS = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


def state_of(factor: float = 1.0) -> dict:
    objective = {f"denoiser.{index}": (torch.arange(6.0).reshape(2, 3) * factor).to(kind)
                 for index, kind in enumerate(KINDS)}  # fmt: skip
    objective |= {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 3)}
    moments = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]}
    processes = [{"random": {"cpu": torch.get_rng_state()}}]
    rest = {"format": "elucid-state", "nimg": 7, "processes": processes, "options": "{}"}
    return {**rest, "objective": objective, "ema": {"0.5": {"a": torch.ones(3)}}, "optimizers": {"main": moments}}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "training-state-000001.parts"
    save_parts(path, state_of(), save_state, None)
    return path


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_what_is_written_is_read(folder):
    assert sorted(one.name for one in folder.iterdir()) == ["part-00000.bin", "state.pt", "tensors.json"]
    assert equal(fitted(load_state(folder), {}), state_of())
    assert not list(folder.parent.glob(".*"))


def test_a_folder_is_a_state_like_others(folder, tmp_path):
    save_state(tmp_path / "training-state-000003.pt", state_of(3))
    save_parts(tmp_path / "training-state-000002.500.parts", state_of(2), save_state, None)
    assert holds_a_run(tmp_path) and [one.name[15:] for one in states_in(tmp_path)] == [
        "000001.parts", "000002.500.parts", "000003.pt",
    ]  # fmt: skip
    assert newest_state(tmp_path)[0].name == "training-state-000003.pt"
    assert find_state(str(folder), None, "")[0] == tmp_path
    assert [one.name[15:] for one in superseded(tmp_path / "training-state-000003.pt", 1, None)] == [
        "000001.parts", "000002.500.parts",
    ]  # fmt: skip
    save_parts(folder, state_of(5), save_state, None)  # again, in a run that was resumed from an older state
    assert equal(fitted(load_state(folder), {}), state_of(5))


def test_leftovers_of_a_killed_process(folder, tmp_path):
    shutil.copytree(folder, tmp_path / ".training-state-000002.parts.tmp")
    assert newest_state(tmp_path)[0] == folder
    remove_leftovers(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [folder.name]


def test_nothing_is_written_of_what_is_not_finite(tmp_path):
    state = state_of()
    state["ema"]["0.5"]["a"][1] = torch.nan
    with pytest.raises(UserError, match="training-state-000002.parts is not saved: ema.0.5.a is not finite"):
        save_parts(tmp_path / "training-state-000002.parts", state, save_state, None)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, state):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="000001.parts cannot be written: No space left on device") as caught:
        save_parts(tmp_path / "training-state-000001.parts", state_of(), full, None)
    assert caught.value.__cause__.errno == 28 and not list(tmp_path.iterdir())


def test_every_flipped_byte_is_noticed(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "training-state-000002.parts")
    for name in ("part-00000.bin", "tensors.json", "state.pt"):
        path = tmp_path / "training-state-000002.parts" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 4
        path.write_bytes(data)
        assert newest_state(tmp_path)[0] == folder and "training-state-000002.parts" in capsys.readouterr().out
        data[len(data) // 3] ^= 4
        path.write_bytes(data)
    (tmp_path / "training-state-000002.parts/part-00000.bin").unlink()
    assert newest_state(tmp_path)[0] == folder


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(x=["float32", [1 << 40], [[0, 0, 0, 0, 1 << 40]]]),
        lambda index: index.update(x=["float32", [2], [[0, 0, 0, 1, 2]]]),
        lambda index: index.update(x=["float32", [2], [[0, -4, 0, 0, 2]]]),
        lambda index: index.update(x=["float32", [2], [[77, 0, 0, 0, 2]]]),
        lambda index: index.update(x=["object", [2], [[0, 0, 0, 0, 2]]]),
        lambda index: index.update(x=["float32", [2], [[0, 0, 0, 0, 1]]]),
        lambda index: index.update(x=["float32", [2], [["../../x", 0, 0, 0, 2]]]),
        lambda index: index.update(x={"a": 1}),
        lambda index: index.pop("objective.scalar"),
    ],
)
def test_an_index_from_strangers(change, folder):
    path = folder / "tensors.json"
    index = json.loads(checksums.content(path.read_bytes(), path)[0])
    change(index)
    path.write_bytes(checksums.sealed(json.dumps(index).encode()))
    with pytest.raises(UserError, match="does not fit its files|lacks the tensor objective.scalar"):
        fitted(load_state(folder), {})


def test_a_pickle_in_a_folder_is_not_run(folder, tmp_path):
    class Attack:
        def __reduce__(self):
            return shutil.rmtree, (str(folder),)

    for name in ("tensors.json", ".metadata", "state.pt"):
        before = (folder / name).read_bytes() if name != ".metadata" else None
        (folder / name).write_bytes(pickle.dumps(Attack()))
        if name == ".metadata":
            load_state(folder)
        else:
            with pytest.raises(UserError):
                load_state(folder)
            (folder / name).write_bytes(before)
    assert (folder / "tensors.json").exists()
