"""3x3 convolutions by Winograd's algorithm beside torch's: speed in turns, and rounding errors against float64.

    python -m benchmarks.winograd [--threads=1] [--rounds=7]

The speeds are medians of the rounds.
"""

import platform
import statistics
from functools import partial

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.throughput import seconds
from elucid.dnnlib import cli
from elucid.start import keep_pages
from elucid.training.networks.kernels.winograd import conv3x3

SHAPES = [
    *[(4, 64, 64, 64), (4, 128, 128, 32), (4, 128, 256, 32), (4, 192, 192, 32), (4, 256, 256, 32), (4, 512, 256, 32)],
    *[(4, 256, 256, 16), (4, 512, 256, 16), (16, 128, 128, 16), (16, 256, 256, 16)],
    *[(16, 256, 256, 8), (4, 256, 256, 8)],
]
"""Images, channels in and out, and side: convolutions of DDPM++ and ADM, and smaller ones that stay torch's."""


def operands(shape: tuple, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and a gradient of the result."""
    images, n_in, n_out, side = shape
    random = torch.Generator().manual_seed(0)
    sizes = (images, n_in, side, side), (n_out, n_in, 3, 3), (images, n_out, side, side)
    x, weight, dy = (torch.randn(size, generator=random).to(memory_format=layout) for size in sizes)
    return x.requires_grad_(), weight.requires_grad_(), dy


def step(convolve, x: Tensor, weight: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """The result, and the gradients of x and of the weight."""
    y = convolve(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), dy)


@torch.no_grad()
def forward(convolve, x: Tensor, weight: Tensor, _: Tensor) -> Tensor:
    return convolve(x, weight)


@click.command()
@click.option("--threads", type=cli.Count(), default=1, show_default=True)
@click.option("--rounds", type=cli.Count(), default=7, show_default=True)
def main(threads: int, rounds: int) -> None:
    """Print torch's speed, how many times as fast Winograd's algorithm is, and errors relative to the norm."""
    keep_pages()
    torch.set_num_threads(threads)
    torchs = partial(F.conv2d, padding=1)
    print(
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads, torch {torch.__version__}"
    )
    print("images, in, out, side | torch, GFLOP/s | forward | with gradients | errors: torch, channels last, Winograd")
    for shape in SHAPES:
        given = operands(shape, torch.contiguous_format)
        times = {(pass_, convolve): [] for pass_ in (forward, step) for convolve in (torchs, conv3x3)}
        for _ in range(1 + rounds):
            for work, found in times.items():
                found.append(seconds(partial(*work, *given), torch.device("cpu"), 1, warm=0))
        times = {work: found[1:] for work, found in times.items()}  # the first of each warms up
        pairs = [zip(times[pass_, torchs], times[pass_, conv3x3], strict=True) for pass_ in (forward, step)]
        ratios = [statistics.median(theirs / ours for theirs, ours in pair) for pair in pairs]
        flop = 2 * 9 * shape[0] * shape[1] * shape[2] * shape[3] ** 2
        exact = step(torchs, *(one.detach().double().requires_grad_(one.requires_grad) for one in given))
        last = operands(shape, torch.channels_last)
        found = [step(torchs, *given), step(torchs, *last), step(conv3x3, *given)]
        errors = [
            "/".join(f"{float((a - b).norm() / b.norm()):.1e}" for a, b in zip(one, exact, strict=True))
            for one in found
        ]
        speed = flop / statistics.median(times[forward, torchs]) / 1e9
        print(f"{shape} | {speed:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {', '.join(errors)}", flush=True)


if __name__ == "__main__":
    main()
