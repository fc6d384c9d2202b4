"""train.py as users call it: run folders, presets, dry runs, bad input."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.api import estimate
from elucid.training.config.presets.table import PRESETS
from elucid.training.registry.names import TABLES
from tests import scripts, transformers
from tests.vaes import save_tiny_vae

SHORT = [*scripts.TINY, "--duration=0.00032", "--batch=32", "--tick=0.16", "--snap=1", "--dump=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A labelled data set of 16x16 RGB images, 3 classes."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for index in range(48):
        path = folder / "abc"[index % 3] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    archive = folder.parent / "pictures.zip"
    scripts.run("dataset_tool.py", f"--source={folder}", f"--dest={archive}")
    return archive


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run's folder."""
    outdir = tmp_path_factory.mktemp("runs")
    scripts.run("train.py", *SHORT, "--cond=1", f"--data={data}", f"--outdir={outdir}", "--desc=first", folder=outdir)
    return outdir / "00000-pictures-cond-ddpmpp-edm-gpus1-batch32-fp32-first"


def test_the_run_folder(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"log.txt", "stats.jsonl", "training_options.json", "training-state-000000.320.pt", "run.json"} <= names
    assert {"network-snapshot-000000.160.pkl", "network-snapshot-000000.320.pkl", "samples-000000.320.png"} <= names
    with Image.open(finished / "samples-000000.320.png") as grid:
        assert grid.size == (994, 994)
    lines = [json.loads(line) for line in (finished / "stats.jsonl").read_text().splitlines()]
    assert [round(line["Progress/kimg"]["mean"], 3) for line in lines] == [0.16, 0.32]
    assert all(line["Loss/loss"]["num"] == 160 and line["Loss/loss"]["mean"] > 0 for line in lines)
    assert {"Timing/sec_per_kimg", "Resources/peak_gpu_mem_gb", "timestamp"} <= lines[0].keys()
    options = json.loads((finished / "training_options.json").read_text())
    assert options["network"]["model_channels"] == 16 and options["loss"]["noise"]["P_mean"] == -1.2
    log = (finished / "log.txt").read_text()
    assert "tick 2" in log and "img/s" in log and "left" in log
    assert max(len(line) for line in log.splitlines() if line.startswith("tick")) <= 100 and " gpu " not in log
    [made] = json.loads((finished / "run.json").read_text())
    assert "train.py " in made["command"] and "--desc=first" in made["command"]
    assert made["torch"] == torch.__version__ and made["host"] and made["processes"] == 1 and made["nimg"] == 320
    assert made["started"] <= made["ended"] and {"commit", "elucid", "python", "device"} <= made.keys()


def test_a_snapshot_is_a_denoiser_to_plain_pickle(finished):
    with open(finished / "network-snapshot-000000.320.pkl", "rb") as file:
        denoiser = pickle.load(file)["ema"]
    out = denoiser(torch.randn(2, 3, 16, 16), torch.ones(2), {"labels": torch.eye(3)[:2]})
    assert out.x0.shape == (2, 3, 16, 16) and out.x0.isfinite().all()


def test_transfer_starts_from_the_weights(finished, data, tmp_path):
    snapshot = finished / "network-snapshot-000000.320.pkl"
    done = scripts.run(
        "train.py",
        *SHORT,
        "--cond=1",
        f"--data={data}",
        f"--outdir={tmp_path}",
        f"--transfer={snapshot}",
        "--lr=1e-9",
        "--nosubdir",
        folder=tmp_path,
    )
    assert "transferred" in done.stdout
    with open(snapshot, "rb") as one, open(tmp_path / "network-snapshot-000000.320.pkl", "rb") as other:
        before, after = (pickle.load(file)["ema"].state_dict() for file in (one, other))
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_valid(preset, data, tmp_path, monkeypatch, capsys):
    """In this process: eight interpreters would take a minute."""
    flags, more = PRESETS[preset], ["--cres=1,2"]
    if flags["arch"] in transformers.NAMES:
        more = [f"--set={path}={value}" for path, value in transformers.shrunk(preset).items()]
    if preset.startswith("edm2-"):
        require_registered(flags)
        more.append("--cbase=16")  # the largest would fill the memory
    if flags.get("train_on_latents"):
        pytest.importorskip("diffusers")
        more.append(f"--set=encoder.model={save_tiny_vae(tmp_path / 'vae')}")
    if preset.partition("-")[0] in ("cd", "tcm", "scd", "dmd2"):
        monkeypatch.setattr(estimate, "PATIENCE", 0)  # a step needs the teacher itself
        more.append("--teacher=teacher.pkl")
    options = dry_run(monkeypatch, capsys, f"--preset={preset}", f"--data={data}", *more)
    assert options["loop"]["batch_size"] == flags.get("batch", 512)
    assert options["network"]["name"] == flags["arch"]
    assert options["optimizer"]["lr"] == flags.get("lr", 1e-3)


def require_registered(flags: dict) -> None:
    """Skip a preset whose average or encoder this version does not have."""
    named = dict(one.split("=", 1) for one in flags["set"])
    for kind, path in (("ema", "ema.name"), ("encoder", "encoder.name")):
        if named.get(path, "rgb" if kind == "encoder" else "halflife") not in TABLES[kind]:
            pytest.skip(f"no {kind} {named[path]}")


def test_flags_win_over_the_preset(data, monkeypatch, capsys):
    options = dry_run(monkeypatch, capsys, "--preset=ffhq-64", "--batch=8", f"--data={data}", "--cres=1,2")
    assert options["loop"]["batch_size"] == 8 and options["optimizer"]["lr"] == 2e-4


def test_label_dropout_without_labels_warns(data, monkeypatch, capsys):
    for cond in (0, 1):
        flags = ["-n", "--device=cpu", *scripts.TINY, f"--data={data}", "--label_dropout=0.1", f"--cond={cond}"]
        code, out, err = scripts.call(monkeypatch, capsys, "train.py", *flags)
        assert code == 0 and ("label_dropout has no effect" in out + err) == (not cond), err


def test_set_is_laid_over_what_the_preset_sets(data, monkeypatch, capsys):
    for cooldown, mean in (("lr_schedule.cooldown", "loss.noise.P_mean"), ("optimizer.lr_rampdown", "loss.P_mean")):
        flags = [f"--set={cooldown}=0.25", f"--set={mean}=-1", f"--data={data}"]
        options = dry_run(monkeypatch, capsys, "--preset=demo", *flags)
        assert (options["lr_schedule"]["cooldown"], options["loss"]["noise"]["P_mean"]) == (0.25, -1)
        assert options["network"]["num_blocks"] == 1 and options["lr_schedule"]["warmup_kimg"] == 2


def dry_run(monkeypatch, capsys, *args) -> dict:
    import runpy
    import sys

    monkeypatch.setattr(sys, "argv", ["train.py", "-n", "--device=cpu", *args])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(scripts.ROOT / "train.py"), run_name="__main__")
    captured = capsys.readouterr()
    if stop.value.code:
        raise AssertionError(captured.err)
    assert "nothing written" in captured.out
    return json.JSONDecoder().raw_decode(captured.out[captured.out.index("{") :])[0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data=nowhere.zip"], "nowhere.zip"),
        (["--cond=1", "--data=UNLABELLED"], "label"),
        (["--batch=10", "--batch-gpu=4", "--data=DATA"], "the nearest that do: 2 or 5"),
        (["--arch=ddpm", "--data=DATA"], "unknown network 'ddpm' (did you mean 'ddpmpp'?)"),
        (["--set=network.blocks=1", "--data=DATA"], "no option 'blocks'"),
        (["--set=optimizer.lrr=1", "--data=DATA"], "lrr"),
        (["--set=optimizer.lrr=1", "--data=DATA", "--dry-run"], "lrr"),
        (["--set=ema.rampup_ratio=0", "--data=DATA", "--dry-run"], "rampup_ratio=0"),
        (["--set=loop.tick=1", "--data=DATA"], "tick"),
        (["--set=loop.batch_gpu=0", "--data=DATA"], "loop.batch_gpu=0 must be from 1 to 67108864"),
        (["--set=loop.precision=fp8", "--data=DATA"], "loop.precision='fp8' must be one of"),
        (["--set=dataset.cache=ram", "--data=DATA"], "dataset.cache='ram' must be one of"),
        (["--set=loss.P_mean=NaN", "--data=DATA"], "P_mean=nan must be a number"),
        (["--set=nework=1", "--data=DATA"], "no part 'nework' (did you mean 'network'?)"),
        (["--set=network.num_blocks=0", "--data=DATA"], "num_blocks=0"),
        (["--cbase=7", "--data=DATA"], "even --cbase"),
        (["--duration=nan", "--data=DATA"], "--duration"),
        (["--lr=inf", "--data=DATA"], "--lr"),
        (["--ema=0.5,0.5", "--data=DATA"], "halflife_mimg"),
        (["--set=optimizer.betas=[0.9]", "--data=DATA"], "betas=[0.9]"),
        (["--cres=1,2,3,4,5,6", "--data=DATA"], "use fewer resolutions"),
        (["--transfer=DATA", "--data=DATA"], "pictures.zip"),
        (["--resume=nowhere", "--data=DATA"], "nowhere"),
        (["--loss=nowhere.py:Loss", "--data=DATA"], "nowhere.py: no such file"),
        (["--precison=fp32", "--data=DATA"], "--precision"),
        (["--device=tpu9", "--data=DATA"], "--device"),
        ([], "--data is missing"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(args, message, data, tmp_path, monkeypatch, capsys):
    import runpy
    import sys

    bare = tmp_path / "bare" / "0.png"
    bare.parent.mkdir()
    Image.new("RGB", (16, 16)).save(bare)
    named = [one.replace("UNLABELLED", str(bare.parent)).replace("DATA", str(data)) for one in args]
    outdir = tmp_path / "out"
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["train.py", *SHORT[:-4], f"--outdir={outdir}", *named])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(scripts.ROOT / "train.py"), run_name="__main__")
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert "Traceback" not in "\n".join(lines)
    assert not outdir.exists() or not list(outdir.iterdir())


def test_divergence_names_the_first_bad_parameter(data, tmp_path):
    done = scripts.run(
        "train.py",
        *SHORT,
        f"--data={data}",
        f"--outdir={tmp_path}",
        "--set=optimizer.lr=1e30",
        "--set=optimizer.lr_rampup_kimg=0",
        "--max-bad-steps=2",
        folder=tmp_path,
        code=2,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "is not finite" in last and " denoiser.model." in last


def test_a_dry_run_says_how_long_and_how_large(data, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "PATIENCE", 1.0)
    flags = [
        "-n",
        "--device=cpu",
        *scripts.TINY,
        f"--data={data}",
        "--batch=16",
        "--duration=0.01",
        "--tick=1",
        "--dump=5",
    ]
    code, out, err = scripts.call(monkeypatch, capsys, "train.py", *flags)
    assert code == 0, err
    lines = {line.split()[0]: line for line in out.splitlines() if line and line[0].isalpha()}
    assert "per step of 16 images" in lines["time"] and "for 10 kimg on cpu" in lines["time"]
    assert "1 snapshots" in lines["disk"] and "2 states" in lines["disk"] and "GB" in lines["memory"] + lines["peak"]


def test_the_estimate_counts_networks_of_losses(data, tmp_path, monkeypatch, capsys):
    """Teachers, averages, fake scores and discriminators: as many as the run then has, and states as large as said."""
    said = []
    monkeypatch.setattr(estimate, "_gb", lambda size: said.append(size) or "")
    tiny = [*scripts.TINY, f"--data={data}", "--batch=4", "--duration=0.000004"]
    plain = [*tiny, f"--outdir={tmp_path / 'plain'}", "--nosubdir"]
    assert scripts.call(monkeypatch, capsys, "train.py", *plain)[0] == 0
    teacher = f"--teacher={scripts.newest(tmp_path / 'plain')}"
    for loss, flags in {
        "progressive": [teacher],
        "adversarial(cd)": [teacher, "--set=loss.width=8"],
        "dmd2": [teacher, "--set=loss.gan_weight=0", "--set=loss.classifier_weight=0"],
    }.items():
        said.clear()
        flags = [f"--loss={loss}", *flags, *tiny]
        code, out, err = scripts.call(monkeypatch, capsys, "train.py", "-n", *flags)
        assert code == 0, err
        network, state = 4 * int(re.search(r"([\d,]+) parameters", out)[1].replace(",", "")), said[-1]
        folder = tmp_path / loss
        assert scripts.call(monkeypatch, capsys, "train.py", *flags, f"--outdir={folder}", "--nosubdir")[0] == 0
        size = next(folder.glob("training-state-*.pt")).stat().st_size
        assert abs(size - state) < 0.7 * network, (loss, size, state, network)  # half a discriminator has no moments


def test_resume_auto_goes_on_with_a_run_that_started_from_other_weights(data, tmp_path, monkeypatch, capsys):
    first = [*SHORT, "--device=cpu", f"--data={data}", f"--outdir={tmp_path / 'first'}", "--nosubdir"]
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *first)
    assert code == 0, err
    flags = [*first[:-2], f"--outdir={tmp_path / 'second'}", "--nosubdir", f"--transfer={tmp_path / 'first'}"]
    code, out, err = scripts.call(monkeypatch, capsys, "train.py", *flags, "--resume=auto")
    assert code == 0 and "transferred" in out, err
    code, out, err = scripts.call(monkeypatch, capsys, "train.py", *flags, "--resume=auto")
    assert code == 0 and "resuming" in out and "transferred" not in out, err
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *flags, f"--resume={tmp_path / 'second'}")
    assert code == 2 and "--transfer" in err and "--resume=auto" in err


def test_sigma_data_is_measured_on_request(data, tmp_path, monkeypatch, capsys):
    flags = [*SHORT, "--device=cpu", f"--data={data}", f"--outdir={tmp_path}", "--nosubdir", "--set=loop.grid_images=0"]
    flags.append("--set=precond.sigma_data=auto")
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *flags)
    assert code == 0, err
    value = json.loads((tmp_path / "training_options.json").read_text())["precond"]["sigma_data"]
    assert abs(value - 2 / 12**0.5) < 0.02  # evenly distributed pixels
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *flags, "--resume=auto")
    assert code == 0, err
