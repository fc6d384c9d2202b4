"""One row of `benchmarks/bench.py`: training and sampling of one network in one precision, in a process of its own.

    python -m benchmarks.throughput --arch=ddpmpp --precision=bf16 [--compile=1] [--batch=4]

A training step is the loop's own: data, augmentation, loss, optimizer, averages. The ceiling is what this machine
reaches here and now on a plain 3x3 convolution of 256 channels at 32x32, for transformers on a plain matrix product;
shares are therefore ratios within one run. The last line is the row as JSON.
"""

import json
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

from benchmarks.flop import flop
from benchmarks.recipes import BATCHES, NETWORKS, new_run
from elucid.dnnlib import cli
from elucid.start import keep_pages
from elucid.torch_utils.distributed import choose_device
from elucid.torch_utils.precision import set_precision
from elucid.training.loop import train_step, working_as_asked
from elucid.training.networks.kernels.choice import choose_kernels
from elucid.training.noise.schedules import Karras
from elucid.training.run import Run
from elucid.training.sampling.generate import generate

SAMPLING_STEPS = 18
MATRICES = {"dit"}
"""Networks whose ceiling is the plain matrix product instead of the convolution."""


def synchronised(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work, device: torch.device, repeats: int, warm: int = 2) -> float:
    """Shortest of `repeats` timed calls, after some that warm up."""

    def timed() -> float:
        synchronised(device)
        start = time.perf_counter()
        work()
        synchronised(device)
        return time.perf_counter() - start

    for _ in range(warm):
        timed()
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


def measure(arch: str, precision: str, device: torch.device, batch: int, compiled: bool, repeats: int, **loop) -> dict:
    """One row of the table."""
    set_precision(precision)
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(arch, precision, device, batch, Path(folder), compile=compiled, **loop)
        try:
            found = {"arch": arch, "precision": precision, "compile": compiled, "batch": batch}
            return found | row(run, compiled, repeats, arch in MATRICES)
        finally:
            run.stream.close()


def row(run: Run, compiled: bool, repeats: int, matrices: bool) -> dict:
    device, batch = run.device, run.loop.batch_size
    reset_peak_memory(device)
    with working_as_asked(run):
        first = seconds(lambda: train_step(run, run.objective), device, 1, warm=0)
        steps, waited = 2 + repeats, getattr(run.stream, "waited", 0.0)
        began = time.perf_counter()
        step_seconds = seconds(lambda: train_step(run, run.objective), device, repeats)
        waits = (getattr(run.stream, "waited", 0.0) - waited) / steps
        took = (time.perf_counter() - began) / steps
    peak, graphs = peak_memory(device), graphs_made()
    denoiser = next(iter(run.ema.averages.values()))
    images = torch.zeros(batch, run.dataset.channels, *run.dataset.resolution, device=device)
    if images.shape[1] == 1 and run.denoiser.spec.image_channels == 3:
        images = images.expand(-1, 3, -1, -1)
    choose_kernels(denoiser.model, denoiser.compute_dtype, winograd=False)  # whose multiplications are fewer
    needed = flop(denoiser, images[:1], 1.0)
    choose_kernels(denoiser.model, denoiser.compute_dtype)  # as in generate.py
    how = {"device": device, "batch_size": batch, "schedule": Karras(SAMPLING_STEPS)}
    count = max(batch, 2 * torch.get_num_threads() * 4 if device.type == "cpu" else batch)

    def sample():
        for _ in generate(denoiser, run.encoder, range(count), **how):
            pass

    sample_seconds = seconds(sample, device, 1, warm=0 if needed > 1e9 and device.type == "cpu" else 1)
    ceiling = ceilings(device, run.denoiser.compute_dtype, min(batch, 128))
    most = {name: ceiling["matmul" if matrices else name] for name in ("training", "forward")}
    evaluations = 2 * SAMPLING_STEPS - 1
    return {
        "parameters": sum(one.numel() for one in run.denoiser.parameters()),
        "side": run.dataset.resolution[0],
        "train_img_s": batch / step_seconds,
        "sample_img_s": count / sample_seconds,
        "gflop_per_image": {"training": 3 * needed / 1e9, "sampling": evaluations * needed / 1e9},
        "train_share": 3 * needed * batch / step_seconds / most["training"],
        "sample_share": evaluations * needed * count / sample_seconds / most["forward"],
        "conv_gflops": {"training": ceiling["training"] / 1e9, "forward": ceiling["forward"] / 1e9},
        "matmul_gflops": ceiling["matmul"] / 1e9,
        "peak_gib": peak / 2**30,
        "first_step_s": first,
        "compile_s": max(first - step_seconds, 0.0) if compiled else 0.0,
        "graphs": graphs,
        "data_wait_share": waits / took,
    }


def cpu_has_bf16() -> bool:
    """Whether this CPU computes in bfloat16 rather than emulating it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine() == "arm64"
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))


def graphs_made() -> int:
    """Graphs that torch.compile has made in this process."""
    if "torch._dynamo.utils" not in sys.modules:
        return 0
    return sys.modules["torch._dynamo.utils"].counters["stats"]["unique_graphs"]


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


@click.command()
@click.option("--arch", type=click.Choice(sorted(NETWORKS)), default="ddpmpp", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "tf32", "fp16", "bf16"]), default="fp32", show_default=True)
@click.option("--batch", type=int, help="Images per step.  [default: 4, 32 for the demo, 128 on a GPU]")
@click.option("--compile", "compiled", type=bool, default=False)
@click.option("--repeats", type=int, default=3, show_default=True)
@click.option("--device", "device_name")
def main(arch, precision, batch, compiled, repeats, device_name):
    """Print one row as JSON."""
    keep_pages()  # as the scripts do
    device = choose_device(device_name)
    size = batch or (128 if device.type == "cuda" else BATCHES[arch])
    click.echo(json.dumps(measure(arch, precision, device, size, compiled, repeats)))


if __name__ == "__main__":
    cli.run(main)
