"""The same small network trained with DSM, consistency and patches: a call of `evaluate.py compare`.

    python benchmarks/compare_losses.py --train=CIFAR/train --test=CIFAR/test --out=OUT [--kimg=20] [--seeds=3] [-- ...]

What follows `--` are further flags of the comparison, e.g. `-- --match=time --sequential`. A second call goes on where
the first was stopped. `compare_scores.py` compares the same trainings by their held-out losses.
"""

import os
import subprocess
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from elucid.dnnlib import cli  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
LOSSES = {"edm": ["--precond=edm"], "cdm": ["--precond=cdm"], "patch": ["--precond=pedm", "--real_p=0.5"]}
NETWORK = ["--arch=ddpmpp", "--cbase=24", "--cres=1,2,2", "--set=network.num_blocks=1"]
NETWORK += ["--set=network.attn_resolutions=[8]", "--set=loop.grid_images=16"]
RECIPE = ["--cond=1", "--batch=16", "--lr=2e-3", "--ema=0.001", "--dropout=0", "--augment=0", "--xflip=1"]
RECIPE += ["--set=optimizer.lr_rampup_kimg=1", "--set=optimizer.lr_rampdown=0.3", "--tick=1", "--snap=5", "--dump=5"]


def call(script: str, *flags: str, log: Path | None = None) -> None:
    """Run one of the project's scripts on one thread: several such runs side by side do not wait for each other."""
    command = [sys.executable, str(ROOT / script), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if log is None:
        subprocess.run(command, env=environment, check=True)
        return
    with open(log, "a", encoding="utf-8") as file:
        subprocess.run(command, env=environment, check=True, stdout=file, stderr=subprocess.STDOUT)


def prepare(train: str, test: str, out: Path) -> None:
    """Both data sets, 32x32."""
    for name, source in (("train", train), ("test", test)):
        if not (out / f"{name}.zip").exists():
            call("dataset_tool.py", f"--source={source}", f"--dest={out / name}.zip", "--resolution=32x32")


@click.command()
@click.option("--train", required=True, help="Images to train on: any --source of dataset_tool.py.")
@click.option("--test", required=True, help="Images kept apart.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--kimg", type=float, default=20, show_default=True, help="Thousand images that each run sees.")
@click.option("--seeds", type=cli.Count(), default=3, show_default=True, help="Trainings of each loss.")
@click.option("--parallel", type=click.IntRange(1), default=2, show_default=True, help="Runs side by side.")
@click.option("--detector", default="efflite0", show_default=True)
@click.argument("further", nargs=-1)
def main(train: str, test: str, out: Path, kimg: float, seeds: int, parallel: int, detector: str, further) -> None:
    """Train all runs, score them and print the verdicts."""
    out.mkdir(parents=True, exist_ok=True)
    prepare(train, test, out)
    recipes = [f"{name}: {' '.join([*NETWORK, *RECIPE, *flags])}" for name, flags in LOSSES.items()]
    what = [f"--data={out / 'train.zip'}", f"--outdir={out / 'cmp'}", f"--detector={detector}", "--device=cpu"]
    size = [
        f"--duration={kimg / 1000:g}",
        f"--seeds={seeds}",
        f"--jobs={parallel}",
        "--num=500",
        "--steps=10",
        "--fixed",
    ]
    command = [sys.executable, str(ROOT / "evaluate.py"), "compare", *recipes, *what, *size, *further]
    sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    cli.run(main)
