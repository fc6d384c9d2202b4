"""A DDPM on handwritten digits, one factor at a time: schedule, steps, activation; accuracy beside distance.

    python benchmarks/ddpm_study.py --out=OUT [--seeds=0-2]

The baseline has linear betas, 1000 steps and GELU, and 250 respaced ancestral steps (published: a landscape study with
the same factors, which reported a better Fréchet distance for the images that a classifier recognised least). The
baseline's first run is also sampled with 25 steps of DDIM. A second call goes on where the first was stopped.
"""

import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.compare_losses import call  # noqa: E402
from elucid.dnnlib import cli  # noqa: E402

BASELINE = {"beta_schedule": "linear", "diffusion_steps": 1000, "activation": "gelu"}
VARIANTS = {
    "baseline": {},
    "cosine": {"beta_schedule": "cosine"},
    "500 steps": {"diffusion_steps": 500},
    "relu": {"activation": "relu"},
}
NETWORK = ["--preset=demo", "--precond=ddpm", "--arch=adm_unet", "--set=network.channels_per_head=24"]
NETWORK += ["--set=loop.grid_images=0", "--device=cpu"]
ANCESTRAL = ["--sampler=ddpm", "--respacing=250"]
DDIM = ["--sampler=ddim", "--respacing=ddim25"]
SAMPLES = 500


def prepare(out: Path, train: str | None = None, test: str | None = None) -> None:
    """Make the data sets, of digits by default, and the reference."""
    for part, source in (("train", train), ("test", test)):
        if not (out / f"{part}.zip").exists():
            source = source or f"builtin:digits-{part}"
            call("dataset_tool.py", f"--source={source}", f"--dest={out / part}.zip")
    if not (out / "ref.npz").exists():
        call("fid.py", "ref", f"--data={out / 'train.zip'}", f"--dest={out / 'ref.npz'}", "--detector=efflite0")


def train_one(name: str, seed: int, out: Path) -> Path:
    """Train one run, or go on with it; returns its folder."""
    folder = out / f"{name.replace(' ', '-')}-{seed}"
    folder.mkdir(exist_ok=True)
    if not (folder / "done").exists():
        options = {**BASELINE, **VARIANTS[name]}
        activation = f"--set=network.activation={options.pop('activation')}"
        chosen = [activation, *(f"--{flag}={value}" for flag, value in options.items()), f"--seed={seed}"]
        places = [f"--data={out / 'train.zip'}", f"--outdir={folder / 'run'}", "--nosubdir", "--resume=auto"]
        call("train.py", *NETWORK, *chosen, *places, log=folder / "output.txt")
        (folder / "done").touch()
        print(f"{name}, seed {seed}: trained", flush=True)
    return folder


def scores(network: Path, samples: Path, out: Path, flags: list[str], count: int = SAMPLES) -> dict[str, float]:
    """Sample, and return the accuracy in percent by the support vector classifier, and the Fréchet distance."""
    noted = samples.parent / f"{samples.name}.json"  # a name may end in .5
    if not noted.exists():
        log = samples.parent / f"{samples.name}.txt"
        wanted = [f"--seeds=0-{count - 1}", "--labels", "--device=cpu"]
        call("generate.py", f"--network={network}", f"--outdir={samples}", *wanted, *flags, log=log)
        data = [f"--data={out / 'train.zip'}", f"--test={out / 'test.zip'}", f"--images={samples}"]
        against = [f"--images={samples}", f"--ref={out / 'ref.npz'}", f"--num={count}", "--device=cpu"]
        agreement = json.loads(last_line("svc", *data, "--json"))["value"]
        noted.write_text(json.dumps({"accuracy": agreement, "frechet": float(last_line("calc", *against))}))
    return json.loads(noted.read_text())


def last_line(*arguments: str) -> str:
    """Return what `fid.py` prints last."""
    command = [sys.executable, str(ROOT / "fid.py"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def spread(values: list[float]) -> str:
    """Return mean and standard deviation over the seeds."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--seeds", type=cli.IntRange(), default="0-2", show_default=True)
@click.option("--parallel", type=click.IntRange(1), default=2, show_default=True, help="Runs side by side.")
def main(out: Path, seeds: list[int], parallel: int) -> None:
    """Train, sample and print the table."""
    out.mkdir(parents=True, exist_ok=True)
    prepare(out)

    def one(name: str, seed: int) -> dict[str, float]:
        folder = train_one(name, seed, out)
        return scores(folder / "run", folder / "samples", out, ANCESTRAL)

    with ThreadPoolExecutor(parallel) as pool:
        jobs = {(name, seed): pool.submit(one, name, seed) for seed in seeds for name in VARIANTS}
        results = {key: job.result() for key, job in jobs.items()}
    print(f"| | accuracy of {SAMPLES} samples, % | Fréchet distance, efflite0 |\n|---|---|---|")
    for name in VARIANTS:
        of_seeds = [results[name, seed] for seed in seeds]
        print(f"| {name} | " + " | ".join(spread([one[what] for one in of_seeds]) for what in of_seeds[0]) + " |")
    folder = out / f"baseline-{seeds[0]}"
    few = scores(folder / "run", folder / "samples-25-DDIM", out, DDIM)
    for label, found in (("250 ancestral", results["baseline", seeds[0]]), ("25 DDIM", few)):
        print(f"| baseline, seed {seeds[0]}, {label} | {found['accuracy']:.2f} | {found['frechet']:.2f} |")


if __name__ == "__main__":
    cli.run(main)
