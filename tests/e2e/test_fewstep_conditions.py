"""Networks that are told a number, by the commands: a flow map by moment matching, and guidance as a condition."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests import scripts
from tests.e2e.test_fewstep import FLAGS
from tests.fault.test_resume import assert_same
from tests.vaes import save_pictures

FLAGS = [*FLAGS, "--lr=0.003", "--set=lr_schedule.warmup_kimg=0"]
IMM = ["--precond=imm", "--loss=imm", "--optimizer=radam"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("data") / "pictures.zip", count=16, size=8)


def trained(tmp_path_factory, data, *flags):
    outdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        assert scripts.exit_code(patch, "train.py", *FLAGS, *flags, f"--data={data}", f"--outdir={outdir}") == 0
    return outdir


@pytest.fixture(scope="module")
def map_of_moments(data, tmp_path_factory):
    return trained(tmp_path_factory, data, *IMM)


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    return trained(tmp_path_factory, data, "--label-dropout=0.1")


@pytest.fixture(scope="module")
def pupil(data, teacher, tmp_path_factory):
    how = ["--loss=guidance_distillation", f"--teacher={scripts.newest(teacher)}", "--set=loss.scales=[1,4]"]
    return trained(tmp_path_factory, data, *how)


@pytest.mark.parametrize("kind", ["map_of_moments", "pupil"])
def test_it_goes_on_to_the_bit(kind, request, monkeypatch):
    folder = request.getfixturevalue(kind)
    states = sorted(folder.glob("training-state-*.pt"))
    whole = torch.load(states[-1], weights_only=True)
    states[-1].unlink()
    assert scripts.exit_code(monkeypatch, "train.py", f"--resume={states[0]}") == 0
    again = torch.load(states[-1], weights_only=True)
    for part in ("objective", "ema", "optimizers"):
        assert_same(whole[part], again[part])
    assert not any("teacher" in name for name in whole["objective"])


def images_of(folder, outdir, monkeypatch, *flags):
    flags = [f"--network={folder}", f"--outdir={outdir}", "--seeds=0-2", "--device=cpu", *flags]
    assert scripts.exit_code(monkeypatch, "generate.py", *flags) == 0
    return np.stack([np.asarray(Image.open(path)) for path in sorted(outdir.glob("*.png"))]).astype(int)


WAYS = [
    [],
    ["--steps=2"],
    ["--steps=2", "--guidance=1.5"],
    ["--steps=3", "--set=schedule.spacing=edm"],
    ["--steps=2", "--set=schedule.name=chosen", "--set=schedule.levels=[82.8,0.7]"],
    ["--steps=2", "--sampler=consistency", "--set=schedule.name=flow_map"],
]


def test_each_way_to_sample_a_flow_map(map_of_moments, tmp_path, monkeypatch):
    made = [images_of(map_of_moments, tmp_path / str(n), monkeypatch, *flags) for n, flags in enumerate(WAYS)]
    assert all(len(one) == 3 for one in made)
    assert all((one != other).any() for n, one in enumerate(made) for other in made[:n])


def test_guidance_is_one_evaluation(pupil, tmp_path, monkeypatch):
    """The scale is told, not computed from two passes; 1 is no guidance; an interval holds where it says."""
    from elucid.training.networks.song_unet import SongUNet

    rows, forward = [], SongUNet.forward

    def counted(self, x, c_noise, cond):
        rows.append((len(x), cond["guidance_scale"][0].item()))
        return forward(self, x, c_noise, cond)

    monkeypatch.setattr(SongUNet, "forward", counted)
    made, counts = {}, {}
    for name, flags in {
        "none": [],
        "one": ["--guidance=1"],
        "guided": ["--guidance=3"],
        "never": ["--guidance=3", "--guidance-interval=100,200"],
        "two passes": ["--guidance=3", "--set=guidance.name=cfg"],
    }.items():
        rows.clear()
        made[name] = images_of(pupil, tmp_path / name, monkeypatch, "--steps=3", *flags)
        told = {scale for _, scale in rows}
        assert [*told] == pytest.approx([np.log(3) / 4 if name == "guided" else 0.0])
        counts[name] = sum(count for count, _ in rows)
    assert counts["guided"] == counts["none"] == counts["two passes"] / 2
    assert (made["none"] == made["one"]).all() and (made["none"] == made["never"]).all()
    assert (made["none"] != made["guided"]).any()


def test_the_log_is_of_the_loss(pupil, map_of_moments):
    for folder in (pupil, map_of_moments):
        last = json.loads((folder / "stats.jsonl").read_text().splitlines()[-1])
        assert last["Loss/loss"]["mean"] >= 0


MISTAKES = [
    ("pupil", ["--cfg=7"], "--cfg=7"),
    ("map_of_moments", ["--guidance=2", "--set=guidance.name=distilled"], "guidance_distillation"),
    ("data", [*IMM, "--batch=6"], "groups of 4"),
    ("data", [*IMM, "--batch-gpu=2"], "groups of 4"),
    ("data", ["--loss=imm"], "--precond=imm"),
    ("data", [*IMM, "--set=loss.particles=1"], "loss.particles=1"),
    ("data", [*IMM, "--set=precond.t_max=1"], "precond.t_max=1"),
    ("data", ["--loss=guidance_distillation"], "--teacher"),
    ("data", ["--loss=guidance_distillation", "--teacher=TEACHER", "--cond=0"], "--cond=1"),
    ("data", ["--loss=guidance_distillation", "--teacher=TEACHER", "--set=loss.scales=[4,1]"], "loss.scales=[4,1]"),
]


@pytest.mark.parametrize(
    ("kind", "flags", "message"), MISTAKES, ids=lambda one: one if isinstance(one, str) else " ".join(one)[-40:]
)
def test_mistakes_are_one_line(kind, flags, message, request, data, teacher, tmp_path, monkeypatch, capsys):
    flags = [flag.replace("TEACHER", str(scripts.newest(teacher))) for flag in flags]
    there = request.getfixturevalue(kind)
    own = [*FLAGS, f"--data={data}"] if kind == "data" else [f"--network={there}", "--seeds=0", "--device=cpu"]
    script = "train.py" if kind == "data" else "generate.py"
    code, _, err = scripts.call(monkeypatch, capsys, script, *own, *flags, f"--outdir={tmp_path / 'out'}")
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and message in lines[-1] and "Traceback" not in err
