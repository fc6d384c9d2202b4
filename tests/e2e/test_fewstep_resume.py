"""Every loss of few steps, resumed from a state in the middle, ends to the bit as the run that nothing stopped."""

import json

import pytest

from elucid.torch_utils.checkpoint import load_state
from elucid.training.registry.names import LOSSES
from tests import scripts
from tests.fault.test_resume import assert_same
from tests.vaes import save_pictures

FLAGS = ["--arch=ddpmpp", "--cbase=8", "--cres=1", "--set=network.num_blocks=1", "--set=network.attn_resolutions=[]"]
FLAGS += ["--augment=0", "--cond=1", "--batch=4", "--ema=0.0001", "--seed=2", "--device=cpu", "--nosubdir", "--lr=1e-3"]
FLAGS += ["--set=lr_schedule.warmup_kimg=0"]
FLAGS += ["--duration=0.000032", "--tick=0.008", "--snap=0", "--dump=1", "--set=loop.grid_images=1", "--dropout=0.1"]

OWN = {
    "ct": ["--precond=cm", "--set=loss.end=20"],
    "ict": ["--set=loss.end=40"],
    "ect": ["--set=loss.stages=4"],
    "progressive": ["--set=loss.start=8"],
    "scm": ["--precond=trigflow"],
    "scd": ["--precond=trigflow"],
    "mean_flow": ["--precond=flow"],
    "improved_mean_flow": ["--precond=flow"],
    "imm": ["--precond=imm"],
}
"""The flags that a loss needs; one that is not here needs none, and a teacher only if it has that option."""

TAUGHT = {"cd", "tcm", "progressive", "scd", "guidance_distillation", "dmd2"}
STAGES = {"ct": "intervals", "ict": "intervals", "ect": "stage", "progressive": "steps"}
"""What is logged of the curricula; each is in an earlier stage where it goes on than where it ends."""
KEPT = {"ct": "loss.average.", "cd": "loss.average.", "progressive": "loss.teacher."}
"""The second networks that states hold."""

FEW = [name for name, path in LOSSES.items() if ".losses.fewstep." in path or ".losses.distillation." in path]
FEW = [name for name in FEW if "adversarial" not in name]  # a term of other losses


def trained(data, outdir, *flags):
    with pytest.MonkeyPatch.context() as patch:
        assert scripts.exit_code(patch, "train.py", *FLAGS, *flags, f"--data={data}", f"--outdir={outdir}") == 0
    return outdir


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("data") / "pictures.zip", count=8, size=8)


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    return scripts.newest(
        trained(data, tmp_path_factory.mktemp("teacher"), "--loss=ect", "--duration=0.000008", "--snap=1")
    )


@pytest.mark.parametrize("loss", FEW)
def test_it_goes_on_to_the_bit(loss, data, teacher, tmp_path, monkeypatch):
    taught = [f"--teacher={teacher}"] if loss in TAUGHT else []
    trained(data, tmp_path, f"--loss={loss}", *OWN.get(loss, []), *taught)
    states = sorted(tmp_path.glob("training-state-*.pt"))
    assert len(states) >= 3
    middle, whole = load_state(states[0]), load_state(states[-1])
    for path in states[1:]:
        path.unlink()
    assert scripts.exit_code(monkeypatch, "train.py", f"--resume={states[0]}") == 0
    assert_same(whole, load_state(states[-1]))
    before, after = middle["objective"], whole["objective"]
    assert any(not (before[name] == after[name]).all() for name in after)
    if loss in KEPT:
        extra = [name for name in after if name.startswith(KEPT[loss])]
        assert extra and any(not (before[name] == after[name]).all() for name in extra)
    if loss in STAGES:
        log = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
        stages = [line[f"Loss/{STAGES[loss]}"] for line in log if f"Loss/{STAGES[loss]}" in line]
        assert len(set(map(str, stages))) > 1
