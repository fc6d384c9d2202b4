"""A model of few steps by the commands: tuned from a diffusion model, gone on with, sampled in its own steps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests import scripts
from tests.vaes import save_pictures

FLAGS = ["--arch=ddpmpp", "--cbase=8", "--cres=1,2", "--set=network.num_blocks=1", "--set=network.attn_resolutions=[4]"]
FLAGS += ["--augment=0", "--cond=1", "--batch=8", "--ema=0.0001", "--seed=2", "--device=cpu", "--nosubdir"]
FLAGS += ["--duration=0.0008", "--tick=0.4", "--snap=1", "--dump=1", "--set=loop.grid_images=4", "--dropout=0.1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("data") / "pictures.zip", count=16, size=8)


def trained(tmp_path_factory, data, *flags):
    outdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        assert scripts.exit_code(patch, "train.py", *FLAGS, *flags, f"--data={data}", f"--outdir={outdir}") == 0
    return outdir


@pytest.fixture(scope="module")
def diffusion(data, tmp_path_factory):
    return trained(tmp_path_factory, data)


@pytest.fixture(scope="module")
def tuned(data, diffusion, tmp_path_factory):
    transfer = f"--transfer={scripts.newest(diffusion)}"
    return trained(tmp_path_factory, data, "--loss=ect", "--optimizer=radam", "--set=loss.stages=4", transfer)


def test_it_goes_on_to_the_bit_and_logs_its_stage(tuned, monkeypatch):
    states = sorted(tuned.glob("training-state-*.pt"))
    whole = torch.load(states[-1], weights_only=True)["objective"]
    states[-1].unlink()
    assert scripts.exit_code(monkeypatch, "train.py", f"--resume={states[0]}") == 0
    again = torch.load(states[-1], weights_only=True)["objective"]
    assert whole.keys() == again.keys() and all(torch.equal(value, again[name]) for name, value in whole.items())
    log = (tuned / "stats.jsonl").read_text()
    assert '"Loss/stage"' in log and '"Loss/ratio"' in log


@pytest.mark.parametrize("steps", [None, 1, 2])
def test_it_samples_in_its_own_steps(steps, tuned, tmp_path, monkeypatch):
    flags = [f"--network={tuned}", f"--outdir={tmp_path}", "--seeds=0-1", "--device=cpu"]
    assert scripts.exit_code(monkeypatch, "generate.py", *flags, *([f"--steps={steps}"] if steps else [])) == 0
    images = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("*.png"))]
    assert len(images) == 2 and (images[0] != images[1]).any()


MISTAKES = [
    ("generate.py", ["--steps=3"], "--steps=3"),
    ("generate.py", ["--set=schedule.levels=[0.8,80]"], "largest first"),
    ("train.py", ["--loss=ect", "--precond=iddpm"], "any noise level"),
    ("train.py", ["--loss=ect", "--precond=flow", "--set=precond.prediction=x"], "noise level 0"),
    ("train.py", ["--loss=ect", "--set=loss.q=1"], "loss.q=1"),
    ("train.py", ["--loss=ect", "--set=loss.mapping=line"], "loss.mapping='line'"),
    ("train.py", ["--loss=ect", "--set=loss.distance=l3"], "loss.distance='l3'"),
    ("train.py", ["--loss=edm", "--teacher=model.pkl"], "--teacher"),
    ("train.py", ["--loss=ect", "--teacher="], "--teacher"),
]


@pytest.mark.parametrize(("script", "flags", "message"), MISTAKES, ids=lambda one: " ".join(one)[-40:])
def test_mistakes_are_one_line(script, flags, message, tuned, data, tmp_path, monkeypatch, capsys):
    own = [*FLAGS, f"--data={data}"] if script == "train.py" else [f"--network={tuned}", "--seeds=0", "--device=cpu"]
    code, _, err = scripts.call(monkeypatch, capsys, script, *own, *flags, f"--outdir={tmp_path / 'out'}")
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and message in lines[-1] and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_has_moved(data, diffusion, tmp_path, monkeypatch, capsys):
    """Its path may change when a run goes on, also of a loss inside another; the loss need not be typed again."""
    teacher = tmp_path / "teacher.pkl"
    teacher.write_bytes(scripts.newest(diffusion).read_bytes())
    run, here = tmp_path / "run", [f"--data={data}", f"--outdir={tmp_path / 'run'}"]
    given = [*FLAGS, "--loss=adversarial(cd)", f"--teacher={teacher}", "--duration=0.0004"]
    assert scripts.exit_code(monkeypatch, "train.py", *given, *here) == 0
    moved = teacher.rename(tmp_path / "moved.pkl")
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", f"--resume={run}", "--duration=0.0008")
    assert code == 2 and "teacher.pkl" in err
    again = [f"--resume={run}", f"--teacher={moved}", "--duration=0.0008"]
    assert scripts.exit_code(monkeypatch, "train.py", *again) == 0


def test_a_first_stage_is_a_consistency_model(data, diffusion, tuned, tmp_path, monkeypatch, capsys):
    own = [*FLAGS, f"--data={data}", f"--outdir={tmp_path / 'out'}", "--loss=tcm", "--duration=0.0004"]
    teacher = f"--teacher={scripts.newest(diffusion)}"
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *own, teacher)
    assert code == 2 and "trained with edm" in err and not (tmp_path / "out").exists()
    assert scripts.exit_code(monkeypatch, "train.py", *own, f"--teacher={scripts.newest(tuned)}") == 0


def test_a_students_halving_is_never_undone(data, diffusion, tmp_path, monkeypatch):
    """A longer run begins an earlier stage by its images; the student keeps what it has learnt."""
    own = [*FLAGS, f"--data={data}", f"--outdir={tmp_path}", "--loss=progressive", "--set=loss.start=4"]
    own += [f"--teacher={scripts.newest(diffusion)}", "--tick=0.1", "--snap=0"]
    assert scripts.exit_code(monkeypatch, "train.py", *own) == 0
    assert scripts.exit_code(monkeypatch, "train.py", f"--resume={tmp_path}", "--duration=0.0016") == 0
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    steps = [line["Loss/steps"]["mean"] for line in lines if "Loss/steps" in line]
    assert steps[0] == 4 and steps == sorted(steps, reverse=True) and steps[-1] == 1
