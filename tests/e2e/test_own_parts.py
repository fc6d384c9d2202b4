"""One part of each kind from outside, those of the documentation: nothing of the program is edited."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts

PAGE = (scripts.ROOT / "docs/how-to/own_parts.md").read_text()
CODE = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
CODE += """
class Broken(Logger):
    def values(self, values, nimg):
        raise ValueError("the server is gone")
"""


TINY = ["--data=digits.zip", "--device=cpu", "--augment=0", "--cbase=8", "--cres=1", "--seed=1",
        "--set=network.num_blocks=1", "--set=loop.grid_images=0"]  # fmt: skip


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    for name in [name for name in sys.modules if name.startswith("elucid_plugin_")]:
        monkeypatch.delitem(sys.modules, name)

    def run(script, *args, code=0):
        done, out, err = scripts.call(monkeypatch, capsys, script, *args)
        assert done == code, err
        return out + err

    return run


def test_every_kind(call, tmp_path, monkeypatch):
    train = [
        *("--data=nowhere", "--outdir=run", "--nosubdir", "--device=cpu", "--seed=1", "--batch=2", "--augment=0"),
        *("--duration=0.000008", "--tick=0.004", "--cbase=8", "--cres=1", "--set=network.num_blocks=1"),
        *("--set=dataset.reader=mine.py:Ramp", "--set=dataset.reader.count=4", "--set=encoder.name=mine.py:Dim"),
        *("--transform=mine.py:Brighter", "--loss=perceptual(edm)", "--set=loss.features.name=mine.py:Means"),
        *("--set=loss.base.noise=mine.py:Fixed", "--set=loss.base.noise.level=0.7"),
        *("--optimizer=mine.py:Sign", "--lr_schedule=mine.py:Half", "--set=ema.name=mine.py:Last"),
        *("--set=sampler.name=mine.py:Once", "--set=schedule.name=mine.py:Even", "--set=loop.grid_images=2"),
        *("--hook=mine.py:Count", "--log=mine.py:Text", "--log=mine.py:Broken"),
    ]
    out = call("train.py", *train)
    assert "Broken failed and is disabled (ValueError: the server is gone); training goes on" in out
    assert (tmp_path / "calls").read_text() == "step step tick step step tick snapshot"
    assert (tmp_path / "run/values.txt").read_text() == "4\n8\n"
    options = json.loads((tmp_path / "run/training_options.json").read_text())
    assert options["loss"]["base"]["noise"] == {"name": "mine.py:Fixed", "level": 0.7}
    assert options["loss"]["features"] == {"name": "mine.py:Means"}
    assert options["transforms"] == [{"name": "mine.py:Brighter", "by": 0.1}]
    assert options["dataset"]["reader"] == {"name": "mine.py:Ramp", "count": 4}
    line = json.loads((tmp_path / "run/stats.jsonl").read_text().splitlines()[0])
    assert 0 < line["Optimizer/lr"]["mean"] < 0.5e-3 and line["Optimizer/grad_norm"]["mean"] > 0
    assert line["Loss/perceptual"]["mean"] > 0
    assert np.array(Image.open(scripts.newest(tmp_path / "run", "samples"))).shape == (496, 994)

    snapshot = scripts.newest("run")
    monkeypatch.setenv("ELUCID_PLUGINS", "mine.py")
    read = load_snapshot(snapshot)
    assert list(read.emas) == ["last"] and read.sampler["name"] == "elucid_plugin_mine:Once"
    generate = [f"--network={snapshot}", "--seeds=0", "--device=cpu"]
    call("generate.py", *generate, "--outdir=own")
    call("generate.py", *generate, "--outdir=guided", "--set=guidance.name=mine.py:Negative", "--set=guidance.scale=0")
    call("generate.py", *generate, "--outdir=slow", "--sampler=ablation", "--steps=2",
         "--set=sampler.process=mine.py:Slow")  # fmt: skip
    images = {name: np.array(Image.open(f"{name}/000000.png")).astype(int) for name in ("own", "guided", "slow")}
    assert np.abs(images["own"] + images["guided"] - 255).max() <= 2, "weaker + 0 (main - weaker) is the negative"
    assert not np.array_equal(images["own"], images["slow"])
    # The same run, resumed by what the command line names.
    call("train.py", *train, "--resume=auto", "--duration=0.000012")


def test_network_preconditioner_loss_and_detector(call, tmp_path, monkeypatch):
    call("dataset_tool.py", "--source=builtin:digits", "--dest=digits.zip", "--max-images=8")
    train = ["--data=digits.zip", "--cond=1", "--device=cpu", "--augment=0", "--batch=4", "--duration=0.000008"]
    parts = ["--arch=mine.py:Tiny", "--set=network.width=16", "--precond=mine.py:Noise", "--loss=mine.py:L1"]
    call("train.py", *train, *parts, "--outdir=run", "--nosubdir")
    options = json.loads((tmp_path / "run/training_options.json").read_text())
    assert options["network"] == {"name": "mine.py:Tiny", "width": 16} and options["loss"]["noise"]["P_std"] == 1.2
    call("generate.py", "--network=run", "--outdir=out", "--seeds=0-3", "--plugins=mine.py", "--device=cpu")
    plain = np.array(Image.open("out/000000.png"))
    np.save("y.npy", np.zeros((1, plain.shape[0], plain.shape[1] // 2)))
    flags = ["--operator=mine.py:Alternate", "--measurement=y.npy", "--posterior=mine.py:Descent,rate=1"]
    call("generate.py", "--network=run", "--outdir=given", "--seeds=0", "--plugins=mine.py", "--device=cpu", *flags)
    assert not np.array_equal(plain, np.array(Image.open("given/000000.png")))
    call("fid.py", "ref", "--data=digits.zip", "--dest=digits.npz", "--detector=mine.py:Pixels", "--device=cpu")
    flags = ["--images=out", "--num=4", "--ref=digits.npz", "--device=cpu"]
    assert "was made with pixels" in call("fid.py", "calc", *flags, code=2)  # it chooses no code
    assert "fid4_pixels: 4 images of out" in call("fid.py", "calc", *flags, "--detector=mine.py:Pixels")


def test_a_part_from_outside_drops_what_the_preset_said_of_another(call, tmp_path):
    call("dataset_tool.py", "--source=builtin:digits", "--dest=digits.zip", "--max-images=8")
    flags = ["--preset=demo", "--arch=mine.py:Tiny", "--data=digits.zip", "--device=cpu", "--dry-run"]
    out = call("train.py", *flags)
    assert json.loads(out[: out.rindex("}") + 1])["network"] == {"name": "mine.py:Tiny", "width": 8}
    assert '"width": 12' in call("train.py", *flags, "--set=network.width=12")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A data set, and the state of a run on it."""
    folder = tmp_path_factory.mktemp("stranger")
    data = folder / "digits.zip"
    flags = [f"--data={data}", f"--outdir={folder}", "--nosubdir", *TINY[1:], "--batch=2", "--duration=0.000002"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELUCID_CACHE", str(folder / "cache"))
        assert (
            scripts.exit_code(patch, "dataset_tool.py", "--source=builtin:digits", f"--dest={data}", "--max-images=8")
            == 0
        )
        assert scripts.exit_code(patch, "train.py", *flags) == 0
    return data, torch.load(folder / "training-state-000000.pt", weights_only=True)


CANARY = "from pathlib import Path\nPath('ran').write_text('this file was run')\n"


@pytest.mark.parametrize("part", ["network", "loss", "loss.base", "loss.noise", "loss.features", "optimizer",
                                  "encoder", "precond", "sampler", "ema", "hooks", "transforms",
                                  "dataset.reader"])  # fmt: skip
@pytest.mark.parametrize("name", ["evil.py:Thing", "evil:Thing"])
def test_resuming_runs_no_code_that_the_command_line_does_not_name(part, name, stranger, call, tmp_path, monkeypatch):
    """A stranger's state: its options name a file or a module."""
    (tmp_path / "evil.py").write_text(CANARY)
    monkeypatch.syspath_prepend(tmp_path)
    data, state = stranger
    path = tmp_path / "run/training-state-000000.pt"
    path.parent.mkdir()
    options = json.loads(state["options"])
    if part in ("hooks", "transforms"):
        options[part] = [{"name": name}]
    else:
        *parts, last = part.split(".")
        node = options
        for key in parts:
            node = node[key]
        node[last] = {"name": name}
    torch.save({**state, "options": json.dumps(options)}, path)
    for flags in (["--resume=run"], [f"--resume={path}", f"--data={data}"]):
        out = call("train.py", *flags, "--device=cpu", code=2)
        assert not (tmp_path / "ran").exists() and "evil" not in sys.modules, "code that a state names was run"
        assert name in out and "ELUCID_PLUGINS" in out


def test_auto_finds_the_run_whatever_the_number_of_processes_or_says_that_there_is_none(call, tmp_path):
    call("dataset_tool.py", "--source=builtin:digits", "--dest=digits.zip", "--max-images=8")
    train = [*TINY, "--outdir=runs", "--resume=auto"]
    out = call("train.py", *train, "--batch=2", "--duration=0.000002")
    assert "--resume=auto found no state of a run digits-uncond-ddpmpp-edm-gpus1-batch2-fp32" in out
    made = next((tmp_path / "runs").iterdir())
    made.rename(made.with_name(made.name.replace("gpus1", "gpus2")))  # as if two processes had made it
    out = call("train.py", *train, "--batch=2", "--duration=0.000004")
    assert "resuming runs/00000-digits-uncond-ddpmpp-edm-gpus2-batch2-fp32 at 0.0 kimg" in out
    assert len(list((tmp_path / "runs").iterdir())) == 1
    out = call("train.py", *train, "--batch=4", "--duration=0.000004")
    assert "found no state of a run digits-uncond-ddpmpp-edm-gpus1-batch4-fp32" in out and "00000-" in out
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_state_is_saved_before_the_picture(call, tmp_path):
    """So that Ctrl-C in a slow picture loses no tick."""
    (tmp_path / "watch.py").write_text(
        "from elucid.training.hooks.base import Hook\n"
        "class Watch(Hook):\n"
        "    def on_snapshot(self, run, path):\n"
        "        print('there:', *sorted(one.name for one in path.parent.glob('*-0*')))\n"
    )
    call("dataset_tool.py", "--source=builtin:digits", "--dest=digits.zip", "--max-images=8")
    more = ["--hook=watch.py:Watch", "--set=loop.grid_images=2", "--batch=2", "--duration=0.000002"]
    out = call("train.py", "--outdir=run", "--nosubdir", *TINY, *more)
    assert "there: network-snapshot-000000.pkl samples-000000.png training-state-000000.pt" in out
    state, picture = (tmp_path / "run" / name for name in ("training-state-000000.pt", "samples-000000.png"))
    assert state.stat().st_mtime_ns <= picture.stat().st_mtime_ns
