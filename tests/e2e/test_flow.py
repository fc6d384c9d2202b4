"""Flow matching and a transformer by the commands: train, stop, go on, sample on either grid, refuse what cannot be."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests import scripts
from tests.vaes import save_pictures

SIZE = 8
FLAGS = ["--arch=transformer", "--cbase=16", "--precond=flow", "--augment=0", "--cond=1", "--batch=8", "--lr=1e-3"]
FLAGS += ["--set=network.patch=2", "--set=network.depth=2", "--set=network.num_heads=2", "--ema=0.0001", "--seed=2"]
FLAGS += ["--set=precond.prediction=x", "--label_dropout=0.1", "--device=cpu"]
JIT = ["--set=loss.clamp=0.05", "--set=loss.noise.name=logit_normal", "--set=loss.noise.P_mean=0.8"]
FLAGS += ["--duration=0.0008", "--tick=0.4", "--snap=1", "--dump=1", "--set=loop.grid_images=4", "--nosubdir"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("data") / "pictures.zip", count=16, size=SIZE)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    outdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        assert scripts.exit_code(patch, "train.py", *FLAGS, *JIT, f"--data={data}", f"--outdir={outdir}") == 0
    return outdir


def test_it_goes_on_to_the_bit(finished, monkeypatch):
    states = sorted(finished.glob("training-state-*.pt"))
    whole = torch.load(states[-1], weights_only=True)["objective"]
    states[-1].unlink()
    assert scripts.exit_code(monkeypatch, "train.py", f"--resume={states[0]}") == 0
    again = torch.load(states[-1], weights_only=True)["objective"]
    assert whole.keys() == again.keys() and all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--sampler=flow_euler", "--steps=4", "--set=schedule.shift=3"],
        ["--sampler=flow_sde", "--steps=4", "--set=sampler.diffusion=linear", "--set=schedule.t_min=0.04"],
        ["--sampler=dopri5", "--set=sampler.rtol=0.01"],
        ["--sampler=edm", "--steps=3"],
        ["--sampler=dpmpp2m", "--steps=3", "--set=schedule.name=flow"],
        ["--cfg=2", "--guidance_interval_t=0,0.7", "--steps=3"],
        ["--cfg=2", "--guidance_interval=0.1,2", "--steps=3", "--set=guidance.channels=1"],
    ],
    ids=lambda flags: " ".join(flags) or "own sampler",
)
def test_it_samples(flags, finished, tmp_path, monkeypatch):
    out = [f"--network={finished}", f"--outdir={tmp_path}", "--seeds=0-1", "--device=cpu"]
    assert scripts.exit_code(monkeypatch, "generate.py", *out, *flags) == 0
    images = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("*.png"))]
    assert len(images) == 2 and images[0].shape[:2] == (SIZE, SIZE) and (images[0] != images[1]).any()


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("train.py", ["--set=network.patch=3"], "network.patch=3"),
        ("train.py", ["--cbase=18", "--set=network.num_heads=4"], "num_heads=4"),
        ("train.py", ["--set=precond.path=bent"], "path='bent'"),
        ("train.py", ["--loss=alignment(flow)", "--set=loss.layer=block9"], "block9"),
        ("train.py", ["--loss=patch(flow)"], "one size only"),
        ("generate.py", ["--cfg=2", "--guidance_interval_t=0.7,0"], "--guidance_interval_t=0.7,0"),
        ("generate.py", ["--cfg=2", "--guidance_interval_t=0,1", "--guidance_interval=1,2"], "--guidance_interval_t"),
        ("generate.py", ["--cfg=2", "--set=guidance.channels=9"], "channels=9"),
        ("generate.py", ["--sampler=flow_sde", "--set=sampler.diffusion=sbdm"], "schedule.t_max"),
        ("generate.py", ["--set=schedule.shift=0"], "shift=0"),
    ],
)
def test_mistakes_are_one_line(script, flags, message, finished, data, tmp_path, monkeypatch, capsys):
    own = [*FLAGS, f"--data={data}"] if script == "train.py" else [f"--network={finished}", "--seeds=0", "--device=cpu"]
    code, _, err = scripts.call(monkeypatch, capsys, script, *own, *flags, f"--outdir={tmp_path / 'out'}")
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2 and len(lines) <= 2 and message in lines[-1], err
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("*.pkl"))
