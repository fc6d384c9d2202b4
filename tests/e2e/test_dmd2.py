"""DMD2 and an adversarial term by the commands: killed and resumed, what is saved, wrong teachers."""

import json
import signal
import subprocess
import sys

import pytest
import torch

from elucid.torch_utils.checkpoint import load_state
from elucid.training.losses.distillation.dmd2 import DMD2
from tests import scripts
from tests.e2e.test_fewstep import FLAGS as COMMON
from tests.e2e.test_fewstep import trained
from tests.fault.test_resume import assert_same
from tests.vaes import save_pictures

FLAGS = [*COMMON, "--duration=0.00008", "--tick=0.016", "--set=optimizer.lr_rampup_kimg=0.01", "--lr=0.001"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("data") / "pictures.zip", count=16, size=8)


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    return scripts.newest(trained(tmp_path_factory, data, *FLAGS))


def methods(teacher):
    return {
        "dmd2": ["--loss=dmd2", f"--teacher={teacher}", "--set=loss.fake_updates=2", "--set=loss.fake_lr=0.002"],
        "adversarial": ["--loss=adversarial(ect)", f"--transfer={teacher}", "--set=loss.weight=0.1"],
    }


@pytest.fixture(scope="module", params=["dmd2", "adversarial"])
def straight(request, data, teacher, tmp_path_factory):
    """The name of a method, its flags, and the folder of a run that nothing disturbed."""
    flags = [*COMMON, *FLAGS, f"--data={data}", *methods(teacher)[request.param]]
    outdir = tmp_path_factory.mktemp("straight")
    scripts.run("train.py", *flags, f"--outdir={outdir}", folder=outdir)  # with as many threads as the killed one
    return request.param, flags, outdir


KILLER = """
import os, runpy, signal, sys
from elucid.training.optim.phase import PhaseOptimizer
real, calls = PhaseOptimizer.step_if_finite, [0]
def step(self):
    calls[0] += 1
    if calls[0] == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self)
PhaseOptimizer.step_if_finite = step
sys.argv[:] = ["train.py"] + sys.argv[1:]
runpy.run_path("train.py", run_name="__main__")
"""


def test_killed_between_two_optimizers_and_resumed(straight, tmp_path):
    """To the bit, with the moments of both and the weights of fake score, heads and discriminator."""
    name, flags, whole = straight
    call = {"dmd2": 3 * 5 + 2, "adversarial": 2 * 5 + 2}[name]  # amid the sixth step; states are of every second
    killer = [sys.executable, "-c", KILLER.format(call=call), *flags, f"--outdir={tmp_path}"]
    done = subprocess.run(killer, env=scripts.environment(tmp_path), cwd=scripts.ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = sorted(one.name for one in tmp_path.glob("training-state-*.pt"))
    assert before and not list(tmp_path.glob("training-state-000000.080.pt"))
    scripts.run("train.py", f"--resume={tmp_path}", "--device=cpu", folder=tmp_path)
    states = [load_state(folder / "training-state-000000.080.pt") for folder in (whole, tmp_path)]
    assert_same(*states)
    assert len(states[0]["optimizers"]) == 2 and all(one["state"] for one in states[0]["optimizers"].values())


def test_what_is_saved(straight, teacher):
    """The networks in training, once each; the teacher is in no state, and snapshots are as large as the teacher's."""
    name, _, folder = straight
    state = load_state(folder / "training-state-000000.080.pt")["objective"]
    own = {"dmd2": "loss.fake.", "adversarial": "loss.discriminator."}[name]
    kinds = [{key for key in state if key.startswith(prefix)} for prefix in ("denoiser.", own, "loss.head.")]
    assert set.union(*kinds) == set(state) and len(kinds[0]) == len(kinds[1]) and kinds[2]
    sizes = [path.stat().st_size for path in (scripts.newest(folder), scripts.newest(teacher.parent))]
    assert abs(sizes[0] - sizes[1]) < 4000  # but for the options
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    terms = {"dmd2": ["Loss/matching", "Loss/gan", "Loss/fake_score", "Loss/classifier", "Loss/fake"]}
    for term in terms.get(name, ["Loss/gan", "Loss/discriminator", "Loss/stage"]):
        assert term in lines[-1]


def test_each_update_sees_other_images_and_noise(data, teacher, tmp_path, monkeypatch):
    seen = []
    original = DMD2.of_fake

    def of_fake(self, batch, made, x, sigma):
        seen.append((batch.images.clone(), made.clone(), x - made, sigma))
        return original(self, batch, made, x, sigma)

    monkeypatch.setattr(DMD2, "of_fake", of_fake)
    flags = [*COMMON, *FLAGS, f"--data={data}", *methods(teacher)["dmd2"], "--duration=0.000008", "--precision=bf16"]
    flags += ["--set=loss.fake_updates=4", "--snap=0", "--dump=0", f"--outdir={tmp_path}"]
    assert scripts.exit_code(monkeypatch, "train.py", *flags) == 0
    assert len(seen) == 4
    for part in zip(*seen, strict=True):
        assert all(not torch.equal(a, b) for i, a in enumerate(part) for b in part[:i])


def test_one_step_makes_images(straight, tmp_path, monkeypatch):
    _, _, folder = straight
    flags = [f"--network={folder}", f"--outdir={tmp_path}", "--seeds=0-1", "--steps=1", "--device=cpu"]
    assert scripts.exit_code(monkeypatch, "generate.py", *flags) == 0
    assert len(list(tmp_path.glob("*.png"))) == 2


def snapshot_of(tmp_path_factory, *flags, size=8, gray=False):
    pictures = save_pictures(tmp_path_factory.mktemp("other") / "other.zip", count=16, size=size, gray=gray)
    return scripts.newest(trained(tmp_path_factory, pictures, *FLAGS, "--duration=0.000008", *flags))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory, data, teacher):
    """Flags by case, and what the message names: both sides."""
    empty = tmp_path_factory.mktemp("empty")
    classifier = ["--arch=adm_classifier", "--precond=classifier", "--loss=cross_entropy"]
    one = {
        "resolution": (snapshot_of(tmp_path_factory, size=16), ["16x16", "8x8"]),
        "channels": (snapshot_of(tmp_path_factory, gray=True), ["channels: 1", "the run: 3"]),
        "classes": (snapshot_of(tmp_path_factory, "--cond=0"), ["classes", "the run"]),
        "precond": (snapshot_of(tmp_path_factory, "--precond=vp"), ["VPPrecond", "EDMPrecond"]),
        "width": (snapshot_of(tmp_path_factory, "--cbase=16"), ["another network"]),
        "classifier": (snapshot_of(tmp_path_factory, *classifier), ["NoisyClassifier", "not a denoiser"]),
        "missing": (empty / "none.pkl", ["none.pkl"]),
        "folder": (empty, [str(empty.name)]),
        "none": (None, ["needs a teacher", "--teacher"]),
    }
    return {case: ([f"--teacher={path}"] if path else [], words) for case, (path, words) in one.items()}


CASES = ["resolution", "channels", "classes", "precond", "width", "classifier", "missing", "folder", "none"]


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_teacher_is_one_line(case, wrong, data, teacher, tmp_path, monkeypatch, capsys):
    flags, words = wrong[case]
    flags = [*COMMON, *FLAGS, f"--data={data}", "--loss=dmd2", f"--transfer={teacher}", *flags]
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *flags, f"--outdir={tmp_path / 'out'}")
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and "Traceback" not in err and all(word in lines[-1] for word in words), err
    assert not (tmp_path / "out").exists()
