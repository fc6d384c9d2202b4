"""The commands on CUDA: train in bf16, stop, resume, generate, score."""

import json

from tests import scripts
from tests.cuda.runs import DEVICE

STOPPED = 75
TRAIN = ["--preset=demo", "--precision=bf16", "--batch=64", "--tick=0.064", "--snap=0", "--dump=0", "--nosubdir"]
TRAIN += ["--duration=0.002048", "--set=loop.grid_images=4", "--seed=1", f"--device={DEVICE}"]

STOP = """
import os, signal
from elucid.training.hooks.base import Hook

class Stop(Hook):
    def on_step(self, run, images):
        if run.nimg == 1024:
            os.kill(os.getpid(), signal.SIGTERM)
"""
"""A hook that ends the run halfway as a cluster does."""


def test_train_stop_resume_generate_score(tmp_path):
    data, run, samples = tmp_path / "digits.zip", tmp_path / "run", tmp_path / "samples"
    scripts.run("dataset_tool.py", "--source=builtin:digits-train", f"--dest={data}", folder=tmp_path)
    (tmp_path / "stop.py").write_text(STOP)
    given = [*TRAIN, f"--data={data}", f"--outdir={run}", f"--hook={tmp_path / 'stop.py'}:Stop"]
    stopped = scripts.run("train.py", *given, folder=tmp_path, code=STOPPED)
    assert "stopped at 1.0 kimg" in stopped.stdout
    scripts.run("train.py", *given, f"--resume={run}", folder=tmp_path)
    ticks = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    losses = [one["Loss/loss"]["mean"] for one in ticks]
    assert losses[-1] < 0.9 * losses[0], losses
    images = ["--seeds=0-63", "--steps=6", "--cfg=1.5", f"--outdir={samples}", f"--device={DEVICE}"]
    scripts.run("generate.py", f"--network={run}", *images, folder=tmp_path)
    assert len(list(samples.rglob("*.png"))) == 64
    score = [f"--images={samples}", f"--ref={data}", "--num=64", "--detector=random", f"--device={DEVICE}"]
    done = scripts.run("fid.py", "calc", *score, folder=tmp_path)
    assert float(done.stdout.split()[-1]) > 0
