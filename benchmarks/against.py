"""Ratios against another version: both train and sample in turns, in processes of their own, on the same machine.

    git worktree add ../before v0.1 && python benchmarks/against.py --before=../before [--arch=demo,ddpmpp] [--rounds=5]

A round starts each version once, in turns which of them first, and takes the fastest of its steps. The figure is the
median of the rounds' ratios, now over before; above 1 is faster now. `--precision=bf16` compares with float32 before.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
STEPS = {"demo": 30, "ddpmpp": 4, "ncsnpp": 4, "adm": 2}
SEEDS = {"demo": 128, "ddpmpp": 8, "ncsnpp": 8, "adm": 8}
SAMPLING_STEPS = {"demo": 12}
"""Of the sampler, where it is not 4: an evaluation costs the same in each."""


def work(arch: str, precision: str) -> dict:
    """Train and sample with the version that is imported; returns images/s."""
    from elucid import start

    getattr(start, "keep_pages", lambda: None)()  # as the scripts do
    import tempfile

    import torch
    from recipes import BATCHES, new_run  # beside this file; the package is the other version's

    from elucid.training.loop import train_step
    from elucid.training.noise.schedules import Karras
    from elucid.training.sampling.generate import generate

    with tempfile.TemporaryDirectory() as folder:
        batch = BATCHES[arch]
        run = new_run(arch, precision, torch.device("cpu"), batch, Path(folder))
        times = []
        for _ in range(2 + STEPS[arch]):
            began = time.perf_counter()
            train_step(run, run.objective)
            times.append(time.perf_counter() - began)
        run.stream.close()
    denoiser = next(iter(run.ema.averages.values()))
    try:  # as the sampling pipeline does
        from elucid.training.networks.kernels.choice import choose_kernels

        choose_kernels(denoiser.model, denoiser.compute_dtype)
    except ImportError:
        pass
    how = {"schedule": Karras(SAMPLING_STEPS.get(arch, 4)), "batch_size": 64}
    began = time.perf_counter()
    for _ in generate(denoiser, run.encoder, range(SEEDS[arch]), **how):
        pass
    return {"training": batch / min(times[2:]), "sampling": SEEDS[arch] / (time.perf_counter() - began)}


def measured(checkout: Path, arch: str, precision: str) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, str(Path(__file__)), "--worker", f"--arch={arch}", f"--precision={precision}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=checkout)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


@click.command()
@click.option("--before", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The other checkout.")
@click.option("--arch", default="demo,ddpmpp", show_default=True, help="Networks, comma-separated.")
@click.option("--precision", default="fp32", show_default=True, help="Of now; before it is float32.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--worker", is_flag=True, hidden=True)
def main(before, arch, precision, rounds, worker):
    """Print each round and the medians of the ratios."""
    if worker:
        click.echo(json.dumps(work(arch, precision)))
        return
    for name in arch.split(","):
        ratios = {"training": [], "sampling": []}
        for index in range(rounds):
            order = [("before", before.resolve(), "fp32"), ("now", ROOT, precision)]
            seen = {who: measured(place, name, number) for who, place, number in order[:: 1 if index % 2 else -1]}
            for what, found in ratios.items():
                found.append(seen["now"][what] / seen["before"][what])
            click.echo(f"{name} round {index + 1}: {seen}")
        for what, found in ratios.items():
            click.echo(
                f"{name}, {precision}, {what}: {statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"
            )


if __name__ == "__main__":
    main()
