"""Losses of continuous time by the commands: they go on to the bit, sample in one step, and refuse what cannot be."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests import scripts
from tests.vaes import save_pictures

FLAGS = ["--arch=ddpmpp", "--cbase=8", "--cres=1,1", "--set=network.num_blocks=1", "--set=network.attn_resolutions=[4]"]
FLAGS += ["--augment=0", "--cond=1", "--batch=8", "--ema=0.0001", "--seed=2", "--device=cpu", "--nosubdir"]
FLAGS += ["--duration=0.00016", "--tick=0.08", "--snap=1", "--dump=1", "--set=loop.grid_images=4", "--dropout=0.1"]
FLAGS += ["--lr=1e-2", "--set=optimizer.lr_rampup_kimg=0"]
RUNS = {
    "mean_flow": ["--precond=flow", "--loss=mean_flow", "--set=loss.omega=2", "--set=loss.label_dropout=0.2"],
    "scm": ["--precond=trigflow", "--loss=uncertainty(scm)", "--set=loss.base.warmup=16"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("data") / "pictures.zip", count=16, size=8)


def trained(folder, data, *flags):
    with pytest.MonkeyPatch.context() as patch:
        assert scripts.exit_code(patch, "train.py", *FLAGS, *flags, f"--data={data}", f"--outdir={folder}") == 0
    return folder


@pytest.fixture(scope="module", params=list(RUNS))
def run(request, data, tmp_path_factory):
    return trained(tmp_path_factory.mktemp(request.param), data, *RUNS[request.param])


def test_it_goes_on_to_the_bit(run, monkeypatch):
    states = sorted(run.glob("training-state-*.pt"))
    whole = torch.load(states[-1], weights_only=True)
    states[-1].unlink()
    assert scripts.exit_code(monkeypatch, "train.py", f"--resume={states[0]}") == 0
    again = torch.load(states[-1], weights_only=True)
    for part in ("objective", "ema", "optimizers"):
        assert part in whole and same(whole[part], again[part]), part


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one == other


def test_it_samples_in_one_step_and_in_two(run, tmp_path, monkeypatch):
    found = {}
    for steps in (None, 1, 2):
        flags = [f"--network={run}", f"--outdir={tmp_path}/{steps}", "--seeds=0-1", "--device=cpu"]
        assert scripts.exit_code(monkeypatch, "generate.py", *flags, *([f"--steps={steps}"] if steps else [])) == 0
        found[steps] = [np.asarray(Image.open(path)) for path in sorted((tmp_path / str(steps)).glob("*.png"))]
    assert (found[None][0] == found[1][0]).all() and (found[1][0] != found[2][0]).any()


def test_its_terms_are_in_the_log(run):
    log = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    if "Loss/tangent" in log[-1]:
        warm = [line["Loss/warmup"]["mean"] for line in log if "Loss/warmup" in line]
        assert warm == sorted(warm) and warm[0] < warm[-1] <= 1 and "Loss/u" in log[-1] and "Loss/weighted" in log[-1]
    else:
        assert "Loss/squares" in log[-1]


def test_a_teacher_in_continuous_time(data, tmp_path, monkeypatch, capsys):
    teacher = trained(tmp_path / "teacher", data)
    flags = ["--loss=scd", f"--teacher={scripts.newest(teacher)}", "--duration=0.00008"]
    pupil = trained(tmp_path / "pupil", data, *flags)
    network = torch.load(sorted(pupil.glob("training-state-*.pt"))[-1], weights_only=True)["objective"]
    assert not any(name.startswith("loss.") for name in network), "the teacher is no part of states"
    other = save_pictures(tmp_path / "other.zip", count=16, size=16)
    own = [*FLAGS, f"--data={other}", *flags, f"--outdir={tmp_path / 'out'}"]
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *own)
    assert code == 2 and "8x8" in err and "16x16" in err and "Traceback" not in err


MISTAKES = [
    (["--loss=mean_flow", "--precond=edm"], "--precond=flow"),
    (["--loss=mean_flow", "--precond=flow", "--set=precond.prediction=x"], "precond.prediction=v"),
    (["--loss=scm", "--precond=iddpm"], "any noise level"),
    (["--loss=scd"], "--teacher"),
    (["--loss=mean_flow", "--precond=flow", "--set=loss.omega=2", "--cond=0"], "--cond=1"),
    (["--loss=mean_flow", "--precond=flow", "--set=loss.ratio=2"], "loss.ratio=2"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=lambda one: " ".join(one)[-40:])
def test_mistakes_are_one_line(flags, message, data, tmp_path, monkeypatch, capsys):
    own = [*FLAGS, f"--data={data}", *flags, f"--outdir={tmp_path / 'out'}"]
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *own)
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and message in lines[-1] and "Traceback" not in err and not (tmp_path / "out").exists()
