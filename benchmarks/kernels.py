"""Where the time of a training step goes on a GPU: its kernels by kind, and the longest by name.

    python -m benchmarks.kernels --arch=ddpmpp --precision=bf16 [--compile=1] [--batch=256]

The share of the step in which no kernel runs is the time that the GPU waits for the host.
"""

import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import click
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.recipes import NETWORKS, new_run
from benchmarks.throughput import seconds
from elucid.dnnlib import cli
from elucid.torch_utils.distributed import choose_device
from elucid.torch_utils.precision import set_precision
from elucid.training.loop import train_step, working_as_asked

KINDS = {
    "layout of convolutions": r"nchwToNhwc|nhwcToNchw|nchwAddPadding|transpose_readWrite",
    "attention": r"flash|fmha|sdpa|attention|softmax",
    "compiled": r"^triton_",
    "fused normalisation": r"^(statistics|coefficients|normalise|sums|gradient_coefficients|gradient)$",
    "fused residual sums": r"^(forward|backward)$",
    "convolutions": r"conv|implicit_gemm|wgrad|dgrad|fprop|xmma|cudnn",
    "matrix products": r"gemm|cublas|splitK|nvjet",
    "optimizer and averages": r"multi_tensor|foreach|fused_adam|FusedOptimizer",
    "copies": r"Memcpy|Memset",
    "normalisation": r"GroupNorm|group_norm|RowwiseMoments|ComputeInternal",
    "elementwise and reductions": r"elementwise|reduce|cat|upsample|pool|dropout|index|distribution",
}
STEPS = 5


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "others")


@click.command()
@click.option("--arch", type=click.Choice(sorted(NETWORKS)), default="ddpmpp", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "tf32", "fp16", "bf16"]), default="bf16", show_default=True)
@click.option("--batch", type=int, default=256, show_default=True, help="Images per step.")
@click.option("--compile", "compiled", type=bool, default=False)
@click.option("--set", "options", multiple=True, help="Option of the loop, as name=JSON.")
@click.option("--top", type=int, default=25, show_default=True, help="Kernels listed by name.")
def main(arch, precision, batch, compiled, options, top):
    """Profile some steps and print two tables."""
    device = choose_device("cuda")
    set_precision(precision)
    loop = {name: json.loads(value) for name, _, value in (one.partition("=") for one in options)}
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(arch, precision, device, batch, Path(folder), compile=compiled, **loop)
        with working_as_asked(run):
            step = seconds(lambda: train_step(run, run.objective), device, 10, warm=5)
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
                for _ in range(STEPS):
                    train_step(run, run.objective)
                torch.cuda.synchronize()
        run.stream.close()
    by_name = defaultdict(lambda: [0.0, 0])
    for event in found.events():
        # Ranges that torch names itself, as that of the optimizer's step, are no kernels.
        if event.device_type == torch.autograd.DeviceType.CUDA and "#" not in event.name:
            by_name[event.name][0] += event.device_time_total / STEPS / 1000
            by_name[event.name][1] += 1
    print_tables(by_name, 1000 * step, top)
    click.echo(f"{arch} {precision} compile={int(compiled)} batch {batch}: {batch / step:.0f} images/s, {loop}")


def print_tables(by_name: dict[str, list], step_ms: float, top: int) -> None:
    kinds = defaultdict(lambda: [0.0, 0])
    for name, (took, count) in by_name.items():
        kinds[kind_of(name)][0] += took
        kinds[kind_of(name)][1] += count
    busy = sum(took for took, _ in kinds.values())
    click.echo(f"step {step_ms:.2f} ms, kernels {busy:.2f} ms")
    click.echo("| kind | ms per step | share | launches |\n|---|---|---|---|")
    for kind, (took, count) in sorted(kinds.items(), key=lambda item: -item[1][0]):
        click.echo(f"| {kind} | {took:.2f} | {100 * took / step_ms:.0f} % | {count / STEPS:.0f} |")
    for name, (took, count) in sorted(by_name.items(), key=lambda item: -item[1][0])[:top]:
        click.echo(f"{took:8.3f} ms {count / STEPS:6.0f}x  [{kind_of(name)[:12]}] {name[:130]}")


if __name__ == "__main__":
    cli.run(main)
