"""Five plug-ins from outside, `tests/probes`, which need more of the loop than a loss with one network."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts
from tests.fault.test_resume import assert_same

PROBES = scripts.ROOT / "tests" / "probes"
SHORT = [
    "--cond=1", "--augment=0", "--batch=8", "--tick=0.032", "--snap=1", "--dump=1", "--seed=3", "--device=cpu",
    "--set=loop.grid_images=4", "--set=lr_schedule.warmup_kimg=0", "--nosubdir", "--lr=0.01",
]  # fmt: skip
NETWORK = ["--cbase=8", "--cres=1,2", "--set=network.num_blocks=1", "--set=network.attn_resolutions=[4]"]
ADVERSARIAL = [*NETWORK, f"--loss={PROBES}/adversarial.py:Adversarial(edm)",
               f"--set=loss.discriminator={PROBES}/adversarial.py:Critic"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes that a classifier can tell apart: dark and light."""
    folder = tmp_path_factory.mktemp("probes") / "pictures"
    rng = np.random.default_rng(0)
    for index in range(16):
        path = folder / str(index % 2) / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(120 * (index % 2), 120 * (index % 2) + 60, (8, 8), dtype=np.uint8)).save(path)
    scripts.run("dataset_tool.py", f"--source={folder}", f"--dest={folder}.zip")
    return Path(f"{folder}.zip")


@pytest.fixture
def train(data, tmp_path, monkeypatch, capsys):
    """Train in a folder of that name for so many images; gives the folder and the lines of stats.jsonl."""
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))

    def run(name, images, *flags, code=0):
        folder, duration = tmp_path / name, f"--duration={images / 1e6}"
        flags = [f"--data={data}", f"--outdir={folder}", duration, *SHORT, *flags]
        done, _, err = scripts.call(monkeypatch, capsys, "train.py", *flags)
        assert done == code, err
        lines = (folder / "stats.jsonl").read_text().splitlines()
        return folder, [
            {key: value["mean"] for key, value in json.loads(line).items() if key != "timestamp"} for line in lines
        ]

    return run


def state_of(folder):
    return torch.load(scripts.newest(folder, "training-state"), weights_only=True)


def test_an_adversarial_loss_has_its_own_optimizer(train):
    folder, lines = train("adversarial", 96, *ADVERSARIAL)
    assert {"Loss/loss", "Loss/adversarial", "Loss/critic", "Optimizer/grad_norm_critic"} <= lines[-1].keys()
    assert (lines[-1]["Optimizer/lr"], lines[-1]["Optimizer/lr_critic"]) == (0.01, 2e-4)
    state = state_of(folder)
    assert (state["index"], state["nimg"], state["position"]) == (12, 96, 192), "each phase has a batch of its own"
    assert state["optimizers"].keys() == {"critic", "main"} and any(
        "discriminator" in key for key in state["objective"]
    )
    assert not any("discriminator" in key for key in state["ema"]["0.5"])
    train("again", 64, *ADVERSARIAL)
    again, _ = train("again", 96, *ADVERSARIAL, "--resume=auto")
    assert_same(state, state_of(again))


def test_the_critic_of_two_processes_is_one(data, tmp_path):
    flags = [f"--data={data}", f"--outdir={tmp_path / 'run'}", "--duration=0.000032", *SHORT, *ADVERSARIAL]
    scripts.run("train.py", *flags, processes=2, folder=tmp_path)
    assert state_of(tmp_path / "run")["index"] == 4


def test_a_distillation_has_a_teacher_and_a_target(train):
    teacher, _ = train("teacher", 32, *NETWORK)
    flags = [*NETWORK, f"--loss={PROBES}/distillation.py:Distillation"]
    flags.append(f"--set=loss.teacher={scripts.newest(teacher)}")
    folder, lines = train("student", 96, *flags)
    assert {"Loss/teacher", "Loss/target"} <= lines[-1].keys()
    keys = state_of(folder)["objective"].keys()
    assert any(key.startswith("loss.target.") for key in keys) and not any("teacher" in key for key in keys)
    train("again", 64, *flags)
    again, _ = train("again", 96, *flags, "--resume=auto")
    assert_same(state_of(folder), state_of(again))


def test_a_loss_differentiates_forwards_and_tells_a_second_level(train):
    folder, lines = train("two", 64, *NETWORK, f"--loss={PROBES}/forward_derivative.py:TwoLevels")
    assert lines[-1]["Loss/slope"] > 0
    denoiser = load_snapshot(scripts.newest(folder)).ema
    assert denoiser.spec.vector == {"labels": 2, "sigma_to": 1} and "model.map_sigma_to.weight" in denoiser.state_dict()


def test_a_network_normalises_its_weights_and_a_loss_learns_its_weighting(train, monkeypatch):
    parts = {"arch": "UnitNet", "precond": "WithLogVariance", "loss": "Uncertainty"}
    folder, lines = train("unit", 64, *(f"--{flag}={PROBES}/normalised.py:{name}" for flag, name in parts.items()))
    assert "Loss/logvar" in lines[-1]
    weights = {key: value for key, value in state_of(folder)["objective"].items() if key.endswith("t.weight")}
    norms = torch.cat([value.flatten(1).norm(dim=1) for value in weights.values()])
    assert len(weights) == 2 and torch.allclose(norms, torch.ones_like(norms), atol=1e-6)
    monkeypatch.setenv("ELUCID_PLUGINS", f"{PROBES}/normalised.py")
    out = load_snapshot(scripts.newest(folder)).ema(torch.zeros(2, 1, 8, 8), 0.5)
    assert out.logvar.shape == (2,)


def test_a_classifier_trains_through_the_same_loop(train, tmp_path, monkeypatch, capsys):
    names = [
        f"--{flag}={PROBES}/classifier.py:{name}" for flag, name in (("arch", "Encoder"), ("loss", "CrossEntropy"))
    ]
    folder, lines = train("classifier", 960, *names, "--precond=classifier")
    assert lines[-1]["Loss/accuracy"] > 0.9 and lines[-1]["Loss/loss"] < 0.4, "in nats, not divided by anything"
    assert not list(folder.glob("samples-*.png"))
    snapshot = scripts.newest(folder)
    flags = [f"--network={snapshot}", f"--outdir={tmp_path / 'out'}", f"--plugins={PROBES}/classifier.py"]
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *flags)
    assert code == 2 and "NoisyClassifier" in err
