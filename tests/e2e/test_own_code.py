"""Networks, preconditioners and losses from outside, through training, sampling and --transfer."""

import sys

import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib import plugins
from tests import scripts

CODE = """
from pathlib import Path
import torch
from torch import nn
from elucid.training.losses.dsm import DSM
from elucid.training.noise.distributions import NoiseDistribution, LogNormal
from elucid.training.preconds.edm import EDMPrecond

Path("ran").write_text("this file was run")

class Net(nn.Module):
    def __init__(self, img_resolution, in_channels, out_channels, label_dim=0, augment_dim=0, width: int = 4):
        super().__init__()
        self.first, self.last = nn.Conv2d(in_channels, width, 3, padding=1), nn.Conv2d(width, out_channels, 1)
    def forward(self, x, c_noise, cond):
        return self.last(torch.tanh(self.first(x)) + c_noise[:, None, None, None].to(x.dtype))

class Precond(EDMPrecond):
    pass

class MyLoss(DSM):
    def __init__(self, noise: NoiseDistribution | None = None):
        super().__init__(noise or LogNormal())
"""
SHORT = ["--device=cpu", "--seed=1", "--augment=0", "--batch=4", "--duration=0.000008", "--set=loop.grid_images=0"]
NAMED = ["--arch=mine.py:Net", "--set=network.width=3", "--precond=mine.py:Precond", "--loss=mine.py:MyLoss"]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a script in a folder of its own, as if no plug-in had been imported yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))

    def run(script, *args):
        for name in [name for name in sys.modules if name.startswith("elucid_plugin_")]:
            del sys.modules[name]
        return scripts.call(monkeypatch, capsys, script, *args)

    return run


@pytest.fixture
def trained(tmp_path, call):
    """The snapshot of a run in which everything is from mine.py."""
    (tmp_path / "pictures").mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index}.png")
    (tmp_path / "mine.py").write_text(CODE)
    code, out, err = call("train.py", "--data=pictures", "--outdir=run", "--nosubdir", *SHORT, *NAMED)
    assert code == 0, err
    assert "Precond, MyLoss" in out
    (tmp_path / "ran").unlink()
    return "run/network-snapshot-000000.pkl"


def test_sampling_wants_to_be_told_to_trust_the_network(trained, call, tmp_path, monkeypatch):
    generate = ["generate.py", f"--network={trained}", "--outdir=out", "--seeds=0", "--steps=2", "--device=cpu"]
    code, _, err = call(*generate)
    assert code == 2 and not (tmp_path / "ran").exists(), "code that a snapshot names was run"
    assert "elucid_plugin_mine:Net" in err and "if you trust it, give --plugins=path/mine.py" in err
    code, _, err = call(*generate, "--plugins=mine.py")
    assert code == 0, err
    (tmp_path / "moved").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "moved/mine.py")
    monkeypatch.setenv("ELUCID_PLUGINS", "moved/mine.py")
    code, _, err = call(*generate, "--overwrite")
    assert code == 0, err
    code, _, err = call(*generate, "--plugins=nowhere.py")
    assert code == 2 and "nowhere.py: no such file" in err


def test_transfer_and_resume_run_what_the_command_line_names(trained, call, tmp_path):
    new = ["--data=pictures", "--outdir=other", "--nosubdir", *SHORT]
    code, out, err = call("train.py", *new, *NAMED, f"--transfer={trained}")
    assert code == 0 and "transferred 4 of 4 tensors" in out, err
    code, _, err = call("train.py", *new, f"--transfer={trained}")
    assert code == 2 and "elucid_plugin_mine:Net" in err
    resume = ["--resume=run", "--duration=0.000016", "--device=cpu"]
    (tmp_path / "ran").unlink()
    code, out, err = call("train.py", *resume)
    assert code == 2 and "mine.py:Net" in err and not (tmp_path / "ran").exists(), "code that a state names was run"
    code, out, err = call("train.py", *resume, "--plugins=mine.py")
    assert code == 0 and "resuming run" in out, err


def test_guidance_warns_where_labels_were_never_dropped(call, tmp_path):
    call("dataset_tool.py", "--source=builtin:digits", "--dest=digits.zip", "--max-images=16")
    train = ["--data=digits.zip", "--cond=1", "--cbase=16", "--cres=1", "--nosubdir", *SHORT]
    for dropout, warned in ((0, True), (0.5, False)):
        code, _, err = call("train.py", *train, f"--outdir=run{dropout}", f"--label_dropout={dropout}")
        assert code == 0, err
        snapshot = f"--network=run{dropout}/network-snapshot-000000.pkl"
        flags = [f"--outdir=out{dropout}", "--seeds=0", "--steps=2", "--device=cpu", "--cfg=2"]
        code, _, err = call("generate.py", snapshot, *flags)
        assert code == 0 and ("trained without label dropout" in err) == warned, err


def test_a_loss_is_not_needed_for_sampling(trained, call, tmp_path):
    (tmp_path / "mine.py").write_text(CODE.replace("MyLoss", "Renamed"))
    flags = ["--outdir=out", "--seeds=0", "--steps=2", "--device=cpu", "--plugins=mine.py"]
    code, _, err = call("generate.py", f"--network={trained}", *flags)
    assert code == 0, err
    code, _, err = call("train.py", "--resume=run", "--duration=0.000016", "--device=cpu", "--plugins=mine.py")
    assert code == 2 and "mine.py has no 'MyLoss'" in err, "training goes on with the loss it began with"


def test_a_class_that_an_installed_package_registers_is_trusted(trained, call, tmp_path, monkeypatch):
    info = tmp_path / "site" / "mynet-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mynet\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[elucid.networks]\nmine = mynet:Net\n")
    package = tmp_path / "site" / "mynet"
    package.mkdir()
    (package / "__init__.py").write_text("from mynet.deep import Net\n")
    (package / "deep.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins.installed.cache_clear()
    try:
        flags = ["--data=pictures", "--outdir=registered", "--nosubdir", *SHORT, "--arch=mine", "--loss=edm"]
        code, _, err = call("train.py", *flags)
        assert code == 0, err
        for name in ("mynet", "mynet.deep"):
            del sys.modules[name]
        snapshot = "registered/network-snapshot-000000.pkl"
        code, _, err = call("generate.py", f"--network={snapshot}", "--outdir=out", "--seeds=0", "--steps=2")
        assert code == 0, err
    finally:
        plugins.installed.cache_clear()


WRONG = """
from elucid.training.losses.dsm import DSM
from elucid.training.noise.distributions import LogNormal
from elucid.training.types import LossOutput
from torch import nn, ones

class Elsewhere(DSM):
    def __init__(self):
        super().__init__(LogNormal())
        self.own = nn.Parameter(ones(()))
    def forward(self, denoiser, batch, step):
        return LossOutput(self.own.expand(len(batch)))

class Half(DSM):
    def __init__(self): super().__init__(LogNormal())
    def image_multiplier(self, step): return 0.5
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Elsewhere", "loss Elsewhere gives the network no gradient"),
        ("Half", "loss Half: image_multiplier returned 0.5"),
    ],
)
def test_a_loss_that_is_wrong_in_training_is_one_line(trained, call, tmp_path, name, message):
    (tmp_path / "wrong.py").write_text(WRONG)
    flags = ["--data=pictures", "--outdir=wrong", "--nosubdir", *SHORT, "--arch=mine.py:Net"]
    code, _, err = call("train.py", *flags, f"--loss=wrong.py:{name}")
    assert code == 2 and message in err and "Traceback" not in err


DETECTOR = """
from pathlib import Path
from elucid.metrics.detectors import Detector

Path("ran").write_text("this file was run")

class Mean(Detector):
    name, dim, sha256, resize = "judge.py:Mean", 3, "0", "none"
    def __init__(self, device, weights):
        self.device = device
    def features(self, images):
        return images.float().mean((2, 3))
"""


def test_a_reference_does_not_choose_code_to_be_run(call, tmp_path):
    (tmp_path / "judge.py").write_text(DETECTOR)
    (tmp_path / "pictures").mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index}.png")
    code, _, err = call("fid.py", "ref", "--data=pictures", "--dest=ref.npz", "--detector=judge.py:Mean")
    assert code == 0, err
    (tmp_path / "ran").unlink()
    calc = ["fid.py", "calc", "--images=pictures", "--ref=ref.npz", "--num=6"]
    code, _, err = call(*calc)
    assert code == 2 and "judge.py:Mean" in err and not (tmp_path / "ran").exists()
    code, out, err = call(*calc, "--detector=judge.py:Mean")
    assert code == 0 and abs(float(out.splitlines()[-1])) < 1e-6, err
