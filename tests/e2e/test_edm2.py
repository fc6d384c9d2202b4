"""A run of EDM2 from start to export: its weights have their norm, its weighting has a picture."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests import scripts

FLAGS = ["--arch=edm2", "--precond=edm2", "--augment=0", "--cbase=16", "--cres=1,2", "--lr=1e-2", "--ema=0.001"]
FLAGS += ["--set=network.num_blocks=1", "--set=network.channels_per_head=16", "--set=lr_schedule.warmup_kimg=0.05"]
FLAGS += ["--batch=16", "--batch-gpu=8", "--duration=0.00032", "--tick=0.08", "--snap=2", "--dump=1", "--seed=3"]
FLAGS += ["--set=loop.grid_images=4", "--device=cpu", "--cond=1", "--nosubdir"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for index in range(32):
        path = folder / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    outdir = tmp_path_factory.mktemp("run")
    scripts.run("train.py", *FLAGS, f"--data={data}", f"--outdir={outdir}")
    return outdir


def deviations(weights: dict) -> list[float]:
    """How far the rows of weights are from the root of their fan-in, as a share of it."""
    matrices = {name: value for name, value in weights.items() if value.ndim >= 2}
    assert len(matrices) > 30 and "uncertainty.linear.weight" in " ".join(matrices)
    rows = [value.flatten(1) for value in matrices.values()]
    return [float((one.norm(dim=1) / math.sqrt(one.shape[1]) - 1).abs().max()) for one in rows]


def test_weights_have_their_norm_after_a_run_a_resumption_and_an_export(finished, data, tmp_path):
    """Accumulated passes, the same bits as without a stop, and a run that starts from the exported averages."""
    states = sorted(finished.glob("training-state-*.pt"))
    assert len(states) == 4
    whole = weights_of(states[-1])
    assert max(deviations(whole)) < 1e-3
    scripts.run("train.py", f"--resume={states[1]}", f"--data={data}", f"--outdir={finished.parent}", "--nosubdir")
    resumed = weights_of(states[-1])
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    scripts.run("export.py", "safetensors", finished, f"--dest={tmp_path / 'model'}")
    more = [*FLAGS, "--duration=0.000016", f"--transfer={tmp_path / 'model'}", f"--outdir={tmp_path / 'more'}"]
    assert "left as initialised" not in scripts.run("train.py", *more, f"--data={data}").stdout
    assert max(deviations(weights_of(scripts.newest(tmp_path / "more", "training-state")))) < 1e-3


def weights_of(state) -> dict[str, torch.Tensor]:
    """The weights that a state trains on with, of network and weighting."""
    objective = torch.load(state, weights_only=True)["objective"]
    return {name.removeprefix("denoiser."): value for name, value in objective.items()}


def test_the_weighting_is_logged_and_drawn(finished):
    lines = [json.loads(line) for line in (finished / "stats.jsonl").read_text().splitlines()]
    assert all({"Loss/loss", "Loss/u", "Loss/weighted"} <= line.keys() for line in lines)
    drawings = sorted(path.name for path in finished.glob("weighting-*.svg"))
    assert drawings == ["weighting-000000.160.svg", "weighting-000000.320.svg"]
    assert "exp(u), learned" in (finished / drawings[0]).read_text()
    found = json.loads((finished / "evaluations/weighting.json").read_text())
    assert [len(one["points"]) for one in found["curves"][0]["series"]] == [12, 12]


def test_it_samples_alike_from_one_batch_or_two(finished, tmp_path):
    for batch in (4, 2):
        scripts.run("generate.py", f"--network={finished}", f"--outdir={tmp_path / str(batch)}", "--seeds=0-3",
                    "--steps=3", f"--batch={batch}")  # fmt: skip
    pictures = [sorted((tmp_path / name).glob("*.png")) for name in ("4", "2")]
    assert len(pictures[0]) == 4
    assert [one.read_bytes() for one in pictures[0]] == [one.read_bytes() for one in pictures[1]]
