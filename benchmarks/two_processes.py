"""Two CPU processes against one, whole and sharded: `python -m benchmarks.two_processes`, one thread each.

Ways are measured in turns, each in fresh processes, and compared within a round, as other load changes. Time of the CPU
counts what processes compute, and not what they wait for.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from elucid.dnnlib import cli
from elucid.torch_utils import distributed
from elucid.torch_utils.parallel import wrap
from elucid.training.config.options import options_from
from elucid.training.config.train_options import TrainOptions
from elucid.training.loop import train_step
from elucid.training.run import Run

WAYS = {"one process": (1, 0), "two, whole": (2, 0), "two, --shard": (2, 1)}


def measure(data: str, shard: int, batch: int, steps: int) -> None:
    """Train some steps as one of the processes, and print seconds and CPU seconds of all per image, on the main one."""
    device = torch.device("cpu")
    distributed.init(device)
    network = {"cbase": 64, "cres": [1, 2], "set": {"network.num_blocks": 1}}
    options = TrainOptions(data=data, batch=batch, seed=0, cache="0", shard=shard, **network)
    run = Run(options_from(options.flags()), device)
    objective = wrap(run.objective, device, find_unused=False)
    train_step(run, objective)
    distributed.barrier()
    began, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        train_step(run, objective)
    distributed.barrier()
    images = steps * batch
    computed = sum(distributed.gather_objects(time.process_time() - busy))
    if distributed.is_main():
        print(json.dumps({"seconds": (time.perf_counter() - began) / images, "cpu": computed / images}))
    distributed.shutdown()


def in_processes(way: str, data: Path, batch: int, steps: int) -> dict[str, float]:
    """Start the processes of a way and return what they print."""
    count, shard = WAYS[way]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"] if count > 1 else []
    code = ["-m", "benchmarks.two_processes", f"--worker={data},{shard}", f"--batch={batch}", f"--steps={steps}"]
    words = [sys.executable, *launch, *code]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@click.command()
@click.option("--batch", type=int, default=8, show_default=True, help="Images per step, of all processes.")
@click.option("--steps", type=int, default=6, show_default=True)
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("--worker", hidden=True)
def main(batch, steps, rounds, worker):
    """Print the speed of two processes as a multiple of one, and the time of the CPU per image."""
    if worker:
        data, _, shard = worker.rpartition(",")
        measure(data, int(shard), batch, steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        for index in range(64):
            pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder, f"{index}.png"))
        found = [{way: in_processes(way, Path(folder), batch, steps) for way in WAYS} for _ in range(rounds)]
    click.echo(f"torch {torch.__version__}, {os.cpu_count()} cores, batch {batch}, {steps} steps, {rounds} rounds")
    click.echo("| | speed, of one process | CPU time per image, of one process |\n|---|---|---|")
    for way in WAYS:
        speed = [one["one process"]["seconds"] / one[way]["seconds"] for one in found]
        busy = [one[way]["cpu"] / one["one process"]["cpu"] for one in found]
        spread = f"{min(speed):.2f} to {max(speed):.2f}"
        click.echo(f"| {way} | {statistics.median(speed):.2f} ({spread}) | {statistics.median(busy):.2f} |")


if __name__ == "__main__":
    cli.run(main)
