"""Time and memory of the metrics after the features: precision, recall, density and coverage, kernel distance, FID.

    python benchmarks/scoring.py [--num=10000] [--dim=1280]

Gaussian features stand in for those of a detector. Prints a line for each and, last, the time of all.
"""

import platform
import resource
import sys
import time
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from elucid.dnnlib import cli  # noqa: E402
from elucid.metrics.frechet import frechet_distance  # noqa: E402
from elucid.metrics.measures.frechet_error import frechet_error  # noqa: E402
from elucid.metrics.measures.kernel import kernel_distance  # noqa: E402
from elucid.metrics.measures.neighbours import neighbourhoods  # noqa: E402
from elucid.metrics.statistics import FeatureStatistics  # noqa: E402


def gaussian(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance."""
    statistics = FeatureStatistics(features.shape[1])
    for part in features.split(1024):
        statistics.update(part)
    return statistics.mean, statistics.covariance


@click.command()
@click.option("--num", default=10_000, show_default=True, help="Images of each set.")
@click.option("--dim", default=1280, show_default=True, help="Feature dimensions.")
def main(num: int, dim: int) -> None:
    """Time the metrics of two sets of features."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{num} images against {num}, {dim} dimensions")
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(num, dim, generator=generator) * scale for scale in (1.0, 1.1))
    target = gaussian(b)
    work = {
        "precision, recall, density, coverage": lambda: neighbourhoods(b, a).precision,
        "kernel distance and its error": lambda: kernel_distance(a, b)[0],
        "Fréchet distance": lambda: frechet_distance(*gaussian(a), *target),
        "error of the Fréchet distance": lambda: frechet_error(a, *target),
    }
    total = 0.0
    for name, call in work.items():
        start = time.perf_counter()
        value = call()
        seconds = time.perf_counter() - start
        total += seconds
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(f"{name:<40} {seconds:7.1f} s {value:14.6g} {peak:6.2f} GB at most so far", flush=True)
    print(f"{total:.1f}")


if __name__ == "__main__":
    cli.run(main)
