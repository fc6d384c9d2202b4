"""export.py: to safetensors and back gives the same bytes and samples; bad input is one line."""

import json

import numpy as np
import pytest
import torch

import elucid
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot, save_snapshot
from elucid.training.snapshots.weights_folder import digest
from tests.scripts import call, exit_code
from tests.snapshots import random_ddpm, save_random_snapshot

pytest.importorskip("safetensors")


@pytest.fixture
def saved(tmp_path):
    return save_random_snapshot(tmp_path / "network-snapshot-000001.pkl", classes=3, names=("a", "b"))


def export(monkeypatch, capsys, *args):
    code, out, err = call(monkeypatch, capsys, "export.py", *args)
    assert code == 0, err
    return out.splitlines()[-1]


def test_round_trip(saved, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    assert export(monkeypatch, capsys, "safetensors", saved, f"--dest={folder}", "--license=CC0-1.0") == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "config.json", "model-b.safetensors", "model.safetensors")
    ]
    back = tmp_path / "back.pkl"
    export(monkeypatch, capsys, "snapshot", folder, f"--dest={back}")
    assert back.read_bytes() == saved.read_bytes()
    one, other = (elucid.load(path).sample(range(4), steps=3) for path in (saved, folder))
    assert torch.equal(one, other)
    assert list(load_snapshot(folder, ema="b").emas) == ["b"]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: elucid\n") and "license: CC0-1.0" in card


def test_state_dict(saved, tmp_path, monkeypatch, capsys):
    path = tmp_path / "weights.pt"
    export(monkeypatch, capsys, "state-dict", saved, f"--dest={path}", "--ema=b")
    state = torch.load(path, weights_only=True)
    network = load_snapshot(saved, ema="b").ema.model
    assert state.keys() == network.state_dict().keys()
    assert all(np.array_equal(state[name], value) for name, value in network.state_dict().items())


def test_a_folder_of_diffusers(tmp_path, monkeypatch, capsys):
    snapshot, folder = tmp_path / "network-snapshot-000001.pkl", tmp_path / "model"
    for classes in (0, 3):  # the second replaces the first
        save_snapshot(snapshot, Snapshot({"a": random_ddpm(classes=classes)}))
        assert export(monkeypatch, capsys, "diffusers", snapshot, f"--dest={folder}") == str(folder)
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        network = {"unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"}
        assert files == network | (set() if classes else {"model_index.json"})
        config = json.loads((folder / "unet/config.json").read_text())
        assert config["num_class_embeds"] == (4 if classes else None)


def test_bad_input(saved, tmp_path, monkeypatch, capsys):
    folder, ddpm = tmp_path / "model", tmp_path / "ddpm.pkl"
    export(monkeypatch, capsys, "safetensors", saved, f"--dest={folder}")
    save_snapshot(ddpm, Snapshot({"a": random_ddpm()}))
    for args in (
        ("safetensors", saved, f"--dest={tmp_path}"),  # a folder with other files
        ("safetensors", saved, f"--dest={saved}"),
        ("safetensors", tmp_path / "none", f"--dest={folder}"),
        ("snapshot", folder, f"--dest={tmp_path / 'x.txt'}"),
        ("snapshot", folder, f"--dest={tmp_path / 'x.pkl'}", "--ema=c"),
        ("state-dict", folder, f"--dest={tmp_path / 'x.pkl'}"),
        ("diffusers", saved, f"--dest={tmp_path / 'x.pkl'}"),  # of another network
        ("diffusers", ddpm, f"--dest={folder}"),  # an export of another kind
        ("diffusers", ddpm, f"--dest={saved}"),
        ("diffusers", ddpm, f"--dest={saved / 'x'}"),
    ):
        assert exit_code(monkeypatch, "export.py", *args) == 2, args
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x.pkl").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("["),
        lambda folder: (folder / "config.json").write_text("[" * 100_000),
        lambda folder: (folder / "model-b.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100),
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1]),
        lambda folder: flip(folder / "model.safetensors"),
        lambda folder: flip(folder / "config.json"),
        lambda folder: change(folder, lambda config: config.update(version=9)),
        lambda folder: change(folder, lambda config: config.update(denoisers={})),
        lambda folder: change(folder, lambda config: config["denoisers"].update({"a": 1})),
        lambda folder: change(folder, lambda config: config["denoisers"].update({"a/../b": {}})),
        lambda folder: change(folder, lambda config: config["denoisers"]["a"].pop("network")),
        lambda folder: change(folder, lambda config: config["denoisers"]["a"].update(name="os:system")),
        lambda folder: change(folder, lambda config: config["denoisers"]["a"]["network"]["options"].update(x=1)),
        lambda folder: change(folder, lambda config: config.update(encoder=[])),
    ],
)
def test_damaged_folders(saved, tmp_path, monkeypatch, capsys, damage):
    folder = tmp_path / "model"
    export(monkeypatch, capsys, "safetensors", saved, f"--dest={folder}")
    damage(folder)
    with pytest.raises(elucid.UserError):
        elucid.load(folder)


def flip(path):
    data = bytearray(path.read_bytes())
    place = data.rindex(b"1") if path.suffix == ".json" else len(data) - 5
    data[place] ^= 1
    path.write_bytes(data)


def change(folder, edit):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    config["sha256"] = digest(config)
    path.write_text(json.dumps(config))
