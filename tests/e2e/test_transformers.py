"""A transformer by the commands: trained, stopped and resumed to the same bits, loaded, sampled."""

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts

NETWORK = {"patch": 2, "depth": 4, "num_heads": 4, "bottleneck": 6, "context_tokens": 2, "context_start": 2}
COMMON = [
    *(
        "--arch=jit-b",
        "--cbase=32",
        "--dropout=0.1",
        "--precond=flow",
        "--cond=1",
        "--label_dropout=0.5",
        "--augment=0",
    ),
    *("--batch=8", "--tick=0.032", "--snap=1", "--dump=1", "--ema=0.0001", "--lr=1e-3", "--seed=7", "--device=cpu"),
    *("--set=loop.grid_images=0", "--set=optimizer.lr_rampup_kimg=0.01", "--nosubdir", "--cache=0"),
    *(f"--set=network.{name}={value}" for name, value in NETWORK.items()),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for index in range(24):
        path = folder / str(index % 3) / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


def test_train_stop_resume_load_sample(data, tmp_path, monkeypatch, capsys):
    for folder, length in (("straight", "0.000064"), ("parts", "0.000032")):
        given = [*COMMON, f"--data={data}", f"--outdir={tmp_path / folder}", f"--duration={length}"]
        code, _, err = scripts.call(monkeypatch, capsys, "train.py", *given)
        assert code == 0, err
    resume = [f"--resume={tmp_path / 'parts'}", "--duration=0.000064", "--device=cpu"]
    assert scripts.call(monkeypatch, capsys, "train.py", *resume)[0] == 0
    ends = [load_snapshot(scripts.newest(tmp_path / folder)).ema for folder in ("straight", "parts")]
    names = list(ends[0].state_dict())
    assert all(torch.equal(ends[0].state_dict()[name], ends[1].state_dict()[name]) for name in names)
    options = ends[0].model.config["options"]
    assert {name: options[name] for name in NETWORK} == NETWORK and options["norm"] == "rms"
    first = load_snapshot(sorted((tmp_path / "straight").glob("network-snapshot-*.pkl"))[0]).ema.state_dict()
    still = [name for name in names if torch.equal(first[name], ends[0].state_dict()[name])]
    assert still == [], "every weight is trained, that of no label and of tokens in context as well"
    given = [f"--network={tmp_path / 'straight'}", f"--outdir={tmp_path / 'images'}", "--seeds=0-3", "--device=cpu"]
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *given, "--steps=3", "--cfg=2")
    assert code == 0, err
    assert len({path.read_bytes() for path in (tmp_path / "images").rglob("*.png")}) == 4
