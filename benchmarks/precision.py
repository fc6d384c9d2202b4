"""What a lower precision changes: loss curves in pairs of the same seed, and the gradient's error on a fixed batch.

    python benchmarks/precision.py --data=CIFAR.zip --out=OUT [--kimg=20] [--seeds=3] [--precision=bf16]

Each precision trains the same small DDPM++ with the seeds of float32, which draw the same images, levels and noise. At
each tick, the distance of a pair is |L / L_fp32 - 1| of their losses, and the spread of float32 the standard deviation
of its seeds over their mean, as root mean square over the ticks. A precision passes if the root mean square of all
distances is at most the spread, and the largest at most `--tolerance` times that; else the script ends with code 1. Of
sixty values that are normally distributed, the largest is 2.5 deviations on average, so that a precision without any
effect of its own but other chance passes both. Gradients are compared with those in float64, at the weights of a
float32 run. TF32 is emulated: the inputs of convolutions and linear maps are
rounded to its 10 bits, forward and backward; attention stays float32. A second call goes on where the first stopped.
"""

import copy
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.throughput import cpu_has_bf16  # noqa: E402
from elucid.dnnlib import cli  # noqa: E402
from elucid.dnnlib.errors import UserError  # noqa: E402
from elucid.torch_utils.weights.working import working_weights  # noqa: E402
from elucid.training.data.dataset import open_dataset  # noqa: E402
from elucid.training.losses.consistency import ConsistencyLoss  # noqa: E402
from elucid.training.losses.dsm import DSM  # noqa: E402
from elucid.training.networks.layers import Conv2d, GroupNorm  # noqa: E402
from elucid.training.noise.distributions import LogNormal  # noqa: E402
from elucid.training.preconds.base import Denoiser  # noqa: E402
from elucid.training.snapshots.snapshot import load_snapshot  # noqa: E402
from elucid.training.types import Batch, Step  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
NETWORK = ["--arch=ddpmpp", "--cbase=24", "--cres=1,2,2", "--set=network.num_blocks=1"]
NETWORK += ["--set=network.attn_resolutions=[8]", "--set=loop.grid_images=0"]
RECIPE = ["--precond=edm", "--cond=1", "--batch=16", "--lr=2e-3", "--ema=0.001", "--dropout=0.1", "--augment=0"]
RECIPE += ["--xflip=1", "--set=optimizer.lr_rampup_kimg=1", "--set=optimizer.lr_rampdown=0.3", "--snap=0", "--dump=0"]

TF32_EMULATED = "tf32 (emulated)"
Gradient = dict[str, Tensor]


def train(data: str, folder: Path, precision: str, seed: int, kimg: float, ticks: int) -> list[float]:
    """Train, unless that has been done, and return the mean loss of each tick."""
    if not list(folder.glob("network-snapshot-*.pkl")):
        flags = [f"--data={data}", f"--outdir={folder}", "--nosubdir", f"--precision={precision}", f"--seed={seed}"]
        length = [f"--duration={kimg / 1000}", f"--tick={kimg / ticks}"]
        command = [sys.executable, str(ROOT / "train.py"), *flags, *NETWORK, *RECIPE, *length]
        said = folder.with_name(f"{folder.name}.txt")
        said.parent.mkdir(parents=True, exist_ok=True)
        with open(said, "w", encoding="utf-8") as file:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        if code:
            raise UserError(f"train.py ended with code {code}; {said} says why")
    lines = (folder / "stats.jsonl").read_text().splitlines()
    return [json.loads(line)["Loss/loss"]["mean"] for line in lines]


def curves_table(curves: dict[str, list[list[float]]], tolerance: float) -> bool:
    """Print how far each precision is from float32, and return whether all are within the tolerance."""
    exact = torch.tensor(curves["fp32"], dtype=torch.float64)  # [seeds, ticks]
    spread = float((exact.std(dim=0) / exact.mean(dim=0)).square().mean().sqrt())
    last = max(exact.shape[1] // 4, 1)
    print("\n| precision | loss at the end, each seed | distance of a pair, rms, in spreads | largest, in spreads | |")
    print("|---|---|---|---|---|")
    good = True
    for name, curve in curves.items():
        values = torch.tensor(curve, dtype=torch.float64)
        ends = ", ".join(f"{value:.4f}" for value in values[:, -last:].mean(dim=1))
        distance = (values / exact - 1).abs()
        rms, largest = float(distance.square().mean().sqrt()) / spread, float(distance.max()) / spread
        within = rms <= 1 and largest <= tolerance
        good = good and within
        verdict = "reference" if name == "fp32" else "within" if within else "**outside**"
        distances = f"{rms * spread:.2%}, {rms:.2f} | {largest * spread:.2%}, {largest:.2f}"
        print(f"| {name} | {ends} | {distances} | {verdict} |")
    print(f"\nThe spread of fp32 is {spread:.2%}. In spreads, the rms may be at most 1 and the largest {tolerance:g}.")
    print(f"The end is the mean of the last {last} of {exact.shape[1]} ticks.")
    return good


class FixedDraws(DSM):
    """DSM with levels and noise given in advance."""

    def __init__(self, sigma: Tensor, draw: Tensor):
        super().__init__(LogNormal())
        self.sigma, self.draw = sigma, draw

    def evaluate(self, denoiser, batch, sigma=None, noise=None):
        return super().evaluate(denoiser, batch, self.sigma, self.draw)


def gradient(denoiser: Denoiser, loss: Callable[[Denoiser], Tensor]) -> Gradient:
    denoiser.zero_grad(set_to_none=True)
    loss(denoiser).sum().backward()
    return {name: one.grad.double() for name, one in denoiser.named_parameters() if one.grad is not None}


def gradients(denoiser: Denoiser, batch: Batch, precisions: list[str]) -> dict[str, Gradient]:
    """The gradient of DSM on a batch in each precision, and in float64."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch.images.shape, generator=generator)
    sigma = (torch.randn(len(batch), 1, 1, 1, generator=generator) * 1.2 - 1.2).exp()
    fixed = FixedDraws(sigma, noise)
    found = {}
    for precision in precisions:
        emulated = precision == TF32_EMULATED
        denoiser.precision = "fp32" if emulated else precision
        with working_weights(denoiser), TF32() if emulated else nullcontext():
            fixed.evaluate(denoiser, batch)  # finds the weights that are cast
            found[precision] = gradient(denoiser, lambda one: fixed.evaluate(one, batch).error)
    denoiser.precision = "fp32"
    return {
        **found,
        "fp64": gradient(copy.deepcopy(denoiser).double(), lambda one: exact_dsm(one, batch, sigma, noise)),
    }


def exact_dsm(denoiser: Denoiser, batch: Batch, sigma: Tensor, noise: Tensor) -> Tensor:
    """DSM written out in float64 (Karras et al. 2022, eq. 8), as denoisers compute theirs in float32 at most."""
    images, sigma, noise = batch.images.double(), sigma.double(), noise.double()
    x, c = images + noise * sigma, denoiser.coefficients(sigma)
    cond = {name: value.double() for name, value in denoiser.condition(x, batch.cond).items()}
    x0 = c.c_skip * x + c.c_out * denoiser.model(c.c_in * x, c.c_noise.flatten(), cond)
    return (x0 - images) ** 2 / c.c_out**2


class TF32(TorchFunctionMode):
    """Rounds the inputs of convolutions and linear maps to TF32's 10 bits, and their gradients' inputs likewise."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function not in (F.conv2d, F.linear, torch.conv2d):
            return function(*args, **(kwargs or {}))
        x, weight, *rest = args
        return RoundedBackward.apply(function(Rounded.apply(x), Rounded.apply(weight), *rest, **(kwargs or {})))


def tf32(x: Tensor) -> Tensor:
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return tf32(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class RoundedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return tf32(grad)


def group_of(denoiser: Denoiser, name: str) -> str:
    """The kind of layer of a weight."""
    module = denoiser.get_submodule(name.rpartition(".")[0])
    if isinstance(module, GroupNorm):
        return "normalisation"
    if name.rpartition(".")[0].endswith((".qkv", ".proj")):
        return "attention"
    return "convolutions" if isinstance(module, Conv2d) else "embedding and conditions"


def error(found: Gradient, exact: Gradient, names: list[str]) -> float:
    """|g - g_exact| / |g_exact| over some weights."""
    difference = sum(float((found[name] - exact[name]).square().sum()) for name in names)
    return (difference / sum(float(exact[name].square().sum()) for name in names)) ** 0.5


def gradients_table(denoiser: Denoiser, found: dict[str, Gradient]) -> None:
    exact = found["fp64"]
    groups: dict[str, list[str]] = {}
    for name in exact:
        groups.setdefault(group_of(denoiser, name), []).append(name)
    columns = {**dict(sorted(groups.items())), "all": list(exact)}
    print(f"\n| gradient's relative error | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for precision in found:
        if precision != "fp64":
            values = [f"{error(found[precision], exact, names):.2e}" for names in columns.values()]
            print(f"| {precision} | {' | '.join(values)} |")


def paths_table(denoiser: Denoiser, batch: Batch, precisions: list[str]) -> None:
    """What the precision of cdm's paths alone changes, beside what other noise on the paths does."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(batch.images.shape, generator=generator)
    sigma = (torch.randn(len(batch), 1, 1, 1, generator=generator) * 1.2 - 1.2).exp()

    def of(path_precision: str | None, seed: int) -> Gradient:
        loss = ConsistencyLoss(FixedDraws(sigma, draw), path_precision=path_precision)

        def evaluated(one: Denoiser) -> Tensor:
            torch.manual_seed(seed)
            return loss(one, batch, Step(0, 0, 1, 0, len(batch))).loss

        with working_weights(denoiser):
            return gradient(denoiser, evaluated)

    exact = of(None, 1)
    print("\n| gradient of cdm in fp32 | relative change |\n|---|---|")
    for precision in precisions:
        print(f"| paths in {precision} | {error(of(precision, 1), exact, list(exact)):.2e} |")
    print(f"| other noise on the paths | {error(of(None, 2), exact, list(exact)):.2e} |")


def first_images(data: str, count: int) -> Batch:
    dataset = open_dataset(data, use_labels=True)
    images = torch.stack([torch.from_numpy(dataset.image(index)) for index in range(count)]).float() / 127.5 - 1
    labels = torch.stack([torch.from_numpy(dataset.label(index)) for index in range(count)])
    return Batch(images, {"labels": labels.float()})


@click.command()
@click.option("--data", required=True, help="Labelled images, e.g. 20,000 of CIFAR-10.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the runs.")
@click.option("--kimg", default=20.0, show_default=True, help="Thousand images of each run.")
@click.option("--ticks", type=cli.Count(min=2), default=20, show_default=True, help="Points of each curve.")
@click.option("--seeds", type=cli.Count(min=2), default=3, show_default=True)
@click.option("--precision", multiple=True, help="Beside fp32.  [default: bf16 if this CPU has its instructions]")
@click.option("--tolerance", default=3.0, show_default=True, help="Largest distance allowed, in spreads of fp32.")
@click.option("--images", type=cli.Count(), default=32, show_default=True, help="Images of the fixed batch.")
def main(data, out, kimg, ticks, seeds, precision, tolerance, images):
    """Print three tables: loss curves, gradients, and the precision of cdm's paths."""
    chosen = list(precision) or ["bf16"] * cpu_has_bf16()
    cpu = torch.backends.cpu.get_cpu_capability()
    print(f"{platform.machine()}, {cpu}, {os.cpu_count()} cores; torch {torch.__version__}; {kimg:g} kimg a run")
    if not chosen:
        print("this CPU has no bf16 instructions: bf16 not measured (--precision=bf16 measures it all the same)")
    curves: dict[str, list[list[float]]] = {name: [] for name in ["fp32", *chosen]}
    for seed in range(seeds):  # pairs one after the other, so that a run that is cut short has whole ones
        for name, found in curves.items():
            found.append(train(data, out / f"{name}-seed{seed}", name, seed, kimg, ticks))
    good = curves_table(curves, tolerance)
    snapshot = max((out / "fp32-seed0").glob("network-snapshot-*.pkl"))
    denoiser, batch = load_snapshot(str(snapshot), torch.device("cpu")).ema, first_images(data, images)
    denoiser.eval().requires_grad_(True)  # without dropout, but with gradients
    gradients_table(denoiser, gradients(denoiser, batch, ["fp32", TF32_EMULATED, *chosen]))
    paths_table(denoiser, batch, chosen)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    cli.run(main)
