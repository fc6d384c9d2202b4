"""Whether the numbers are right on a GPU, before anything is timed. Exit code 1 if not.

    python -m benchmarks.gpu_check [--device=cuda]

1. The networks of `tests/vectors` equal the reference, forward and by gradient norms, with TF32 off.
2. Training steps and samples of each recipe equal those of the CPU.
3. A steady step never waits for the device: torch is told to raise an error if it does.
4. With two GPUs or more: two processes end where one does.
5. The tests of `tests/cuda` pass: the same bits, no waits, numbers, compilation, scores, memory, commands.
Tolerances are those of float32 sums in another order. `--device=cpu` tries the program itself.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import torch

from benchmarks.recipes import new_run
from elucid.dnnlib import cli
from elucid.torch_utils.distributed import choose_device
from elucid.torch_utils.precision import set_precision
from elucid.training.loop import train_step
from elucid.training.networks.dhariwal_unet import DhariwalUNet
from elucid.training.networks.song_unet import SongUNet
from elucid.training.noise.schedules import Karras
from elucid.training.run import Run
from elucid.training.sampling.generate import generate
from tests import vectors

FORWARD, GRADIENT, WEIGHTS, LEVELS = 1e-4, 1e-3, 1e-4, 1
"""Relative errors of outputs and of gradient norms, of weights after steps, and gray levels of samples."""
STEPS = 3
CLASSES = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


def networks(device: torch.device) -> list[tuple[str, float, float]]:
    """Errors of outputs and gradient norms in the cases of the reference: (what, error, tolerance)."""
    found = []
    for path in vectors.cases("networks/*"):
        case, arrays = vectors.load(path)
        net = CLASSES[case["network"]](**vectors.network_options(case["kwargs"]))
        vectors.fill(net, case["salt"], case["parameters"])
        net.to(device).eval()
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        keys = {"labels": "class_labels", "augment": "augment_labels"}
        out = net(tensors["x"], tensors["noise_labels"], {k: tensors[n] for k, n in keys.items() if n in tensors})
        found.append((f"{path.stem}: forward", vectors.relative_error(out.cpu(), arrays["out"]), FORWARD))
        (out * tensors["cotangent"]).sum().backward()
        norms = {name: float(parameter.grad.norm()) for name, parameter in net.named_parameters()}
        errors = [abs(norms[name] / value - 1) for name, value in case["grad_norms"].items() if value > 1e-6]
        found.append((f"{path.stem}: gradient norms", max(errors), GRADIENT))
    return found


def weights(run: Run) -> torch.Tensor:
    return torch.cat([one.detach().double().cpu().flatten() for one in run.denoiser.parameters()])


def recipes(device: torch.device, folder: Path) -> list[tuple[str, float, float]]:
    """Errors of weights after steps, and of samples, against the CPU; the same noise is drawn on the host."""
    found = []
    for arch in ("demo", "ddpmpp"):
        ends, images = [], []
        for place in (torch.device("cpu"), device):
            with numbers_of_the_host():
                run = new_run(arch, "fp32", place, 4, folder, dropout=0.0)
                for _ in range(STEPS):
                    train_step(run, run.objective)
            run.stream.close()
            ends.append(weights(run))
            denoiser = next(iter(run.ema.averages.values()))
            how = {"device": place, "schedule": Karras(4), "noise": "cpu"}
            images.append(next(generate(denoiser, run.encoder, range(4), **how)).images.cpu().int())
        error = float((ends[0] - ends[1]).norm() / ends[0].norm())
        found.append((f"{arch}: weights after {STEPS} steps", error, WEIGHTS))
        found.append((f"{arch}: samples, gray levels", float((images[0] - images[1]).abs().max()), LEVELS))
    return found


@contextmanager
def numbers_of_the_host() -> Iterator[None]:
    """Draw on the host what is drawn on the device, whose generators give other numbers."""
    kept = torch.randn, torch.rand, torch.randn_like

    def drawn(draw):
        return lambda *shape, device=None, **more: draw(*shape, **more).to(device or "cpu")

    torch.randn, torch.rand = drawn(kept[0]), drawn(kept[1])
    torch.randn_like = lambda x, **more: kept[0](x.shape, dtype=x.dtype).to(x.device)
    try:
        yield
    finally:
        torch.randn, torch.rand, torch.randn_like = kept


def steady_step(device: torch.device, folder: Path) -> list[tuple[str, float, float]]:
    """1 if a steady step waits for the device, which torch reports as an error, else 0."""
    if device.type != "cuda":
        return []
    run, waits = new_run("ddpmpp", "bf16", device, 8, folder), 0.0
    for _ in range(3):
        train_step(run, run.objective)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(run, run.objective)
    except RuntimeError as error:
        click.echo(str(error).splitlines()[0])
        waits = 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
        run.stream.close()
    return [("a steady step waits for the device", waits, 0.5)]


def two_processes(device: torch.device) -> list[tuple[str, float, float]]:
    """1 if the tests of two processes fail on two GPUs, else 0."""
    if device.type != "cuda" or torch.cuda.device_count() < 2:
        click.echo("two processes against one: not checked, it takes two GPUs")
        return []
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/distributed/test_gradients.py"])
    return [("two processes against one", float(done.returncode != 0), 0.5)]


def promises(device: torch.device) -> list[tuple[str, float, float]]:
    """1 if the tests of what is promised on CUDA fail, else 0."""
    if device.type != "cuda":
        return []
    processes = str(min(8, os.cpu_count() or 1))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", processes, "tests/cuda"])
    return [("tests/cuda", float(done.returncode != 0), 0.5)]


@click.command()
@click.option("--device", "device_name", default="cuda", show_default=True)
def main(device_name):
    """Print each error beside its tolerance."""
    device = choose_device(device_name)
    set_precision("fp32", bench=False)
    with tempfile.TemporaryDirectory() as folder:
        found = [*networks(device), *recipes(device, Path(folder)), *steady_step(device, Path(folder))]
    found += [*two_processes(device), *promises(device)]
    wrong = [what for what, error, tolerance in found if not error <= tolerance]
    for what, error, tolerance in found:
        click.echo(f"{'WRONG' if what in wrong else 'ok':5s}  {what}: {error:.2g} (at most {tolerance:g})")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    cli.run(main)
