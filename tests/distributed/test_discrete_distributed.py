"""Loss-aware levels and the likelihood under two processes."""

import json

import torch

from tests import scripts
from tests.vaes import save_pictures

TRAIN = [
    *scripts.TINY,
    "--precond=ddpm",
    "--diffusion_steps=15",
    "--beta_schedule=cosine",
    "--learn_sigma=1",
    "--batch=8",
    "--augment=0",
]
TRAIN += ["--set=loss.noise.name=loss_aware", "--set=loss.noise.history=2", "--snap=1", "--dump=1", "--nosubdir"]
TRAIN += ["--tick=0.1", "--set=loop.grid_images=0"]


def history(state):
    content = torch.load(state, weights_only=True)
    return {name: value for name, value in content["objective"].items() if name.startswith("loss.noise.")}


def test_loss_aware_levels_are_shared_and_resume_to_the_bit(tmp_path):
    data = save_pictures(tmp_path / "pictures.zip", count=16, size=8)
    states = {}
    for name, duration in (("whole", "0.0004"), ("halved", "0.0002")):
        out = [f"--data={data}", f"--outdir={tmp_path / name}"]
        scripts.run("train.py", *TRAIN, *out, f"--duration={duration}", processes=2)
    resume = [f"--resume={tmp_path / 'halved'}", "--device=cpu"]
    scripts.run("train.py", *resume, "--duration=0.0004", processes=2)
    for name in ("whole", "halved"):
        states[name] = history(scripts.newest(tmp_path / name, "training-state"))
    assert int(states["whole"]["loss.noise.counts"].sum()) == 400  # of both processes
    assert states["whole"].keys() == states["halved"].keys()
    assert all(torch.equal(value, states["halved"][name]) for name, value in states["whole"].items())
    assert float(states["whole"]["loss.noise.losses"].min()) > 0  # every level has been drawn

    network = [f"--network={tmp_path / 'whole'}", f"--data={data}", "--json", "--device=cpu", "--num-images=10"]
    results = []
    for processes, batch in ((1, 64), (2, 3)):
        done = scripts.run("evaluate.py", "nll", *network, f"--batch={batch}", processes=processes)
        results.append(json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1]))
    assert abs(results[0]["value"] - results[1]["value"]) < 1e-4 * results[0]["value"]
    assert results[0]["num_images"] == results[1]["num_images"] == 10 and len(results[0]["steps"]) == 15
