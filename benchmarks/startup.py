"""Seconds until a training step has been made, uncompiled and compiled: from a cold cache, and from a warm one.

`python -m benchmarks.startup`. Each row is a process of its own; its seconds count from its start, imports included.
CPU seconds are those of all cores, compilers included, and depend less on what else the machine does.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import click

from elucid.dnnlib import cli

STEPS = 3
NETWORKS = {
    "demo": (
        {
            **{"name": "ddpmpp", "model_channels": 24, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.0},
            **{"attn_resolutions": [8]},
        },
        (16, 1, 32),
    ),
    "ddpmpp": ({"name": "ddpmpp"}, (32, 3, 4)),
}
"""Network, and resolution, channels and batch of images: the demo's, and DDPM++ at the size of CIFAR-10."""


def make_steps(name: str, compiles: bool, device_name: str | None, started: float) -> None:
    """Make the steps and print what is known of them as JSON."""
    import torch

    from elucid.torch_utils.distributed import choose_device
    from elucid.training.config.build import make_denoiser
    from elucid.training.objective import Objective
    from elucid.training.registry.components import make
    from elucid.training.types import Batch, NetSpec, Step

    options, (side, channels, batch) = NETWORKS[name]
    device, said = choose_device(device_name), []
    denoiser = make_denoiser(options, {"name": "edm"}, NetSpec((side, side), channels, vector={"labels": 10}))
    objective = Objective(denoiser.to(device).train(), make("edm", "loss"))
    images = torch.rand(batch, channels, side, side, device=device)
    given = Batch(images, {"labels": torch.eye(10, device=device)[torch.arange(batch) % 10]})
    seconds = []
    with denoiser.compiled(said.append) if compiles else nullcontext():
        for index in range(STEPS):
            objective(given, Step(index, index * batch, 100, 0, batch)).loss.sum().backward()
            float(next(denoiser.parameters()).grad.sum())
            seconds.append(time.time() - started)
    print(json.dumps({"until": seconds, "said": said, "torch": torch.__version__, "threads": torch.get_num_threads()}))


def measured(name: str, compiles: bool, device: str | None, cache: str) -> dict:
    """Run `make_steps` in a process of its own, which keeps compiled code in `cache`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work = [sys.executable, "-m", "benchmarks.startup", f"--only={name}", f"--child={int(compiles)}"]
    done = subprocess.run(
        [*work, f"--started={time.time()}", *([f"--device={device}"] if device else [])],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    after, found = resource.getrusage(resource.RUSAGE_CHILDREN), json.loads(done.stdout.splitlines()[-1])
    cpu = sum(getattr(after, one) - getattr(before, one) for one in ("ru_utime", "ru_stime"))
    last = (found["until"][-1] - found["until"][0]) / (STEPS - 1)
    return {"first_step": found["until"][0], "cpu": cpu, "later_steps": last, **found}


@click.command()
@click.option("--only", type=click.Choice(sorted(NETWORKS)), help="One of the networks.")
@click.option("--device", help="As of train.py.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, writable=True), help="Write the rows here too.")
@click.option("--child", type=bool, hidden=True)
@click.option("--started", type=float, hidden=True)
def main(only, device, json_path, child, started):
    """Print one row for each network: uncompiled, compiled from a cold cache, compiled from a warm one."""
    if child is not None:
        return make_steps(only, child, device, started)
    rows = []
    for name in [only] if only else NETWORKS:
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("uncompiled", "cold", "warm"):
                row = {"network": name, "kind": kind, **measured(name, kind != "uncompiled", device, cache)}
                rows.append(row)
                if len(rows) == 1:
                    print(
                        f"{platform.processor() or platform.machine()}; torch {row['torch']}; {row['threads']} threads"
                    )
                print(
                    f"{name:8s}{kind:12s}first step after {row['first_step']:6.1f} s, {row['cpu']:6.1f} CPU s in all; "
                    f"a later step {row['later_steps']:.2f} s {' '.join(row['said'])}",
                    flush=True,
                )
    if json_path:
        Path(json_path).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    cli.run(main)
