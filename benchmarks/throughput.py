"""Images/s of training and sampling per architecture and precision, as a share of the measured ceiling.

The ceiling is what this machine reaches here and now on a plain 3x3 convolution of 256 channels at 32x32, and on a
plain matrix product; shares are therefore ratios within one run. `python -m benchmarks.throughput --help`.
"""

import gc
import json
import platform
import re
import sys
import time
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from elucid.dnnlib import cli
from elucid.torch_utils.distributed import choose_device
from elucid.torch_utils.precision import set_precision
from elucid.torch_utils.weights.working import working_weights
from elucid.training.config.build import make_denoiser
from elucid.training.optim.optimizers import make_optimizer
from elucid.training.registry.components import make
from elucid.training.types import Batch, NetSpec, Step

ARCHITECTURES = {"ddpmpp": 4, "ncsnpp": 4, "adm": 2}
"""Architectures at CIFAR-10 size, with the batch size used on a CPU."""


def seconds(work, device: torch.device, repeats: int) -> float:
    """Shortest of `repeats` timed calls, after two that warm up."""

    def timed() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    timed(), timed()
    return min(timed() for _ in range(repeats))


def ceilings(device: torch.device, dtype: torch.dtype, batch: int) -> dict[str, float]:
    """FLOP/s of a convolution forward, forward with backward, and of a matrix product."""
    x = torch.randn(batch, 256, 32, 32, device=device, dtype=dtype, requires_grad=True)
    w = torch.randn(256, 256, 3, 3, device=device, dtype=dtype, requires_grad=True)
    gradient = torch.randn(batch, 256, 32, 32, device=device, dtype=dtype)
    flops = 2 * batch * 256 * 256 * 9 * 32 * 32
    best = {"forward": 0.0, "training": 0.0}
    for layout in (torch.contiguous_format, torch.channels_last):
        image, kernel = (t.detach().to(memory_format=layout, copy=True).requires_grad_() for t in (x, w))

        def forward(image=image, kernel=kernel):
            with torch.no_grad():
                torch.conv2d(image, kernel, padding=1)

        def training(image=image, kernel=kernel):
            torch.conv2d(image, kernel, padding=1).backward(gradient)

        best["forward"] = max(best["forward"], flops / seconds(forward, device, 5))
        best["training"] = max(best["training"], 3 * flops / seconds(training, device, 5))
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    best["matmul"] = 2 * side**3 / seconds(lambda: a @ a, device, 5)
    return best


def measure(arch: str, precision: str, device: torch.device, batch: int, compiled: bool, repeats: int) -> dict:
    """One row of the table."""
    gc.collect()  # the row before, so that its memory is not counted
    set_precision(precision)
    spec = NetSpec(resolution=(32, 32), image_channels=3, vector={"labels": 10, "augment": 9})
    denoiser = make_denoiser({"name": arch}, {"name": "edm"}, spec, precision).to(device).train()
    images = torch.rand(batch, 3, 32, 32, device=device) * 2 - 1
    cond = {"labels": torch.eye(10, device=device)[torch.arange(batch) % 10]}
    cond["augment"] = torch.zeros(batch, 9, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(images, torch.ones(batch, device=device), cond)
    flops = counter.get_total_flops()
    if compiled:
        denoiser.model.compile()
    loss = make("edm", "loss")
    fused = denoiser.compute_dtype != torch.float32
    optimizer = make_optimizer({"name": "adam", "lr": 1e-4}, denoiser.named_parameters(), fused)
    reset_peak_memory(device)

    def train():
        optimizer.zero_grad(set_to_none=True)
        with working_weights(denoiser, keep=True):
            (loss(denoiser, Batch(images, cond), Step(0, 0, 1, 0, batch)).loss.sum() / batch).backward()
        optimizer.step()

    def sample():
        with torch.no_grad():
            denoiser(images, 1.0, cond)

    train_seconds = seconds(train, device, repeats)
    denoiser.eval()
    with working_weights(denoiser):  # as for all steps of a batch
        sample_seconds = seconds(sample, device, repeats)
    peak = peak_memory(device)
    ceiling = ceilings(device, denoiser.compute_dtype, batch)
    return {
        "arch": arch,
        "precision": precision,
        "compile": compiled,
        "batch": batch,
        "train_img_s": batch / train_seconds,
        "train_share": 3 * flops / train_seconds / ceiling["training"],
        "sample_img_s_18_steps": batch / sample_seconds / 35,
        "forward_share": flops / sample_seconds / ceiling["forward"],
        "conv_ceiling_gflops": ceiling["training"] / 1e9,
        "matmul_ceiling_gflops": ceiling["matmul"] / 1e9,
        "peak_gib": peak / 2**30,
    }


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak of what ran before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """Most bytes held since the reset: by tensors on a GPU, by the process on a CPU; NaN where that is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux":
        return float("nan")
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def cpu_has_bf16() -> bool:
    """Whether this CPU computes in bfloat16 rather than emulating it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read()
    except OSError:
        return platform.machine() == "arm64"
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags


@click.command()
@click.option("--arch", multiple=True, type=click.Choice(sorted(ARCHITECTURES)), help="All, if not given.")
@click.option("--precision", multiple=True, type=click.Choice(["fp32", "tf32", "fp16", "bf16"]))
@click.option("--batch", type=int, help="Images per step.  [default: 4 or 2 on a CPU, 128 on a GPU]")
@click.option("--compile", "compiled", multiple=True, type=bool, default=[False], help="May be given twice: 0 and 1.")
@click.option("--repeats", type=int, default=3, show_default=True)
@click.option("--device", "device_name")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, writable=True), help="Write the rows here too.")
def main(arch, precision, batch, compiled, repeats, device_name, json_path):
    """Print one row per architecture and precision."""
    device = choose_device(device_name)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    click.echo(
        f"{name}; torch {torch.__version__}; Python {platform.python_version()}; {torch.get_num_threads()} threads"
    )
    if not precision:
        precision = ["fp32", "tf32", "fp16", "bf16"] if device.type == "cuda" else ["fp32"] + ["bf16"] * cpu_has_bf16()
        if "bf16" not in precision:
            click.echo(
                "this CPU has no bf16 instructions: bf16 not measured (--precision=bf16 measures it all the same)"
            )
    rows = []
    for one in arch or ARCHITECTURES:
        for number in precision:
            for flag in compiled:
                size = batch or (128 if device.type == "cuda" else ARCHITECTURES[one])
                row = measure(one, number, device, size, flag, repeats)
                rows.append(row)
                values = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
                click.echo("  ".join(values))
    if json_path:
        with open(json_path, "w", encoding="utf-8") as file:
            json.dump({"device": name, "torch": torch.__version__, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    cli.run(main)
