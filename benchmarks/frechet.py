"""Time of the Fréchet distance of two covariances against the formula with scipy's `sqrtm`.

Both are timed in one process on the same matrices, of a spectrum like Inception's. Prints a table and, last, the
ratio of the times (ours / scipy's).
"""

import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import scipy
import scipy.linalg
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from elucid.dnnlib import cli  # noqa: E402
from elucid.metrics.frechet import frechet_distance  # noqa: E402


def gaussian(random: np.random.RandomState, dim: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of `num` draws whose variances fall from 10 to 1e-5 over a random basis."""
    basis = np.linalg.qr(random.randn(dim, dim))[0]
    deviations = np.sqrt(np.geomspace(10, 1e-5, dim))
    features = (random.randn(num, dim) * deviations) @ basis.T
    return features.mean(0), np.cov(features, rowvar=False)


def by_sqrtm(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root.real))


def timed(call: Callable[[], float]) -> tuple[float, float]:
    """Seconds a call takes, and its value."""
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def compare(sides: tuple[np.ndarray, ...], repeats: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Best time and value of ours and of scipy's, in turn, so that what else the machine does meets both."""
    tensors = [torch.from_numpy(side) for side in sides]
    runs = [(timed(lambda: frechet_distance(*tensors)), timed(lambda: by_sqrtm(*sides))) for _ in range(repeats)]
    return min(run[0] for run in runs), min(run[1] for run in runs)


@click.command()
@click.option("--dim", default=2048, show_default=True, help="Feature dimensions.")
@click.option("--repeats", default=3, show_default=True, help="Runs of each; the best counts.")
def main(dim: int, repeats: int) -> None:
    """Time our Fréchet distance against scipy's sqrtm."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"scipy {scipy.__version__}, numpy {np.__version__}, {dim} dimensions")
    print(f"{'second covariance from':<24} {'ours, s':>9} {'sqrtm, s':>9} {'ours':>16} {'sqrtm':>16}")
    random = np.random.RandomState(0)
    first = gaussian(random, dim, 3 * dim)
    ratios = []
    for num in (3 * dim, dim // 4):
        sides = (*first, *gaussian(random, dim, num))
        (ours, distance), (theirs, check) = compare(sides, repeats)
        source = f"{num} images{'' if num > dim else ' (singular)'}"
        print(f"{source:<24} {ours:9.2f} {theirs:9.2f} {distance:16.9f} {check:16.9f}")
        ratios.append(ours / theirs)
    print(f"{max(ratios):.3f}")


if __name__ == "__main__":
    cli.run(main)
