"""Launches, copies and waits of a steady training step, counted on the simulated device of `tests/device`.

    python -m benchmarks.counts --arch=ddpmpp --precision=bf16

The network has an eighth of its channels, which changes no count. The last line is JSON.
"""

import json
import tempfile
from pathlib import Path

import click
import torch

from benchmarks.recipes import NETWORKS, new_run
from elucid.dnnlib import cli
from elucid.training.loop import train_step
from tests.device import simulated

WARM, STEPS = 6, 2
"""Steps before those that are counted: matrices of the augmentation are copied when they are first needed."""
CHANNELS = {"demo": 8, "adm": 32, "dit": 48}


def counts(arch: str, precision: str) -> dict:
    """Counts per steady step."""
    device = simulated.register()
    torch.set_num_threads(1)
    narrow = {**NETWORKS[arch], "model_channels": CHANNELS.get(arch, 16)}
    NETWORKS[arch] = narrow
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(arch, precision, device, 2, Path(folder), bench=False)
        for _ in range(WARM):
            train_step(run, run.objective)
        with simulated.counting() as seen:
            for _ in range(STEPS):
                train_step(run, run.objective)
        run.stream.close()
    found = {"launches": seen.launches, "to_device": seen.to_device, "to_host": seen.to_host}
    return {name: value / STEPS for name, value in {**found, "waits": sum(seen.waits.values())}.items()}


@click.command()
@click.option("--arch", type=click.Choice(sorted(NETWORKS)), default="ddpmpp", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
def main(arch, precision):
    """Print the counts as JSON."""
    click.echo(json.dumps(counts(arch, precision)))


if __name__ == "__main__":
    cli.run(main)
