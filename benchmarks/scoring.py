"""Time and memory of the metrics after the features, on Gaussian features that stand in for those of a detector.

    python benchmarks/scoring.py [--num=10000] [--dim=1280]     # time of each metric, features in memory
    python benchmarks/scoring.py --whole --num=50000 --dim=2048 --metrics=fid,kid,pr

The second form is a whole scoring of images by a detector that computes nothing, in a process of its own: it prints the
time, and the peak of memory beyond that of the process with the imports, the detector and the images.
"""

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import elucid  # noqa: E402
from elucid.dnnlib import cli  # noqa: E402
from elucid.metrics.detectors import Detector  # noqa: E402
from elucid.metrics.frechet import frechet_distance  # noqa: E402
from elucid.metrics.measures.frechet_error import frechet_error  # noqa: E402
from elucid.metrics.measures.kernel import kernel_distance  # noqa: E402
from elucid.metrics.measures.neighbours import neighbourhoods  # noqa: E402
from elucid.metrics.measures.sliced import monge_distance  # noqa: E402
from elucid.metrics.reference import save_reference  # noqa: E402
from elucid.metrics.statistics import FeatureStatistics  # noqa: E402


def statistics(features: torch.Tensor) -> FeatureStatistics:
    result = FeatureStatistics(features.shape[1])
    for part in features.split(512):
        result.update(part)
    return result


def gaussian(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = statistics(features)
    return found.mean, found.covariance


def peak() -> float:
    """GB of memory of this process so far, at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


class Noise(Detector):
    """Standard normal features of the numbers that the images encode; `weights` names the dimensions."""

    name, sha256, resize = "noise", "0" * 64, "none"

    def __init__(self, device: torch.device, weights: str | None = None):
        self.device, self.dim, self.seen = device, int(weights or 2048), 0

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return torch.randn(len(images), self.dim, generator=torch.Generator().manual_seed(self.seen))


def whole(ref: str, num: int, dim: int, metrics: str) -> None:
    """Score `num` images and print seconds and GB as JSON."""
    images = torch.zeros(num, 1, 8, 8, dtype=torch.uint8)
    images[0] = 1  # a set of one and the same image is refused
    before, start = peak(), time.perf_counter()
    score = elucid.score(
        images, ref, metrics=metrics, detector=f"{__file__}:Noise", detector_weights=str(dim), device="cpu"
    )
    took = time.perf_counter() - start
    values = {metric.metric: metric.value for metric in score.metrics}
    print(json.dumps({"seconds": took, "GB before": before, "GB beyond": peak() - before, "values": values}))


def run_whole(num: int, dim: int, metrics: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ref, generator = f"{folder}/ref.npz", torch.Generator().manual_seed(10**6)
        features = torch.empty(num, dim)
        for part in features.split(4096):
            part.normal_(0, 1.1, generator=generator)
        save_reference(ref, statistics(features), Noise(torch.device("cpu"), str(dim)), features=features)
        del features
        call = f"--ref={ref}", f"--num={num}", f"--dim={dim}", f"--metrics={metrics}"
        done = subprocess.run([sys.executable, __file__, *call], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    for name, value in result["values"].items():
        print(f"{name:<40} {value:14.6g}")
    print(f"{result['seconds']:.1f} s from the first image to the last metric; {result['GB before']:.2f} GB before")
    print(f"{result['GB beyond']:.2f}")


def run_each(num: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(num, dim, generator=generator) * scale for scale in (1.0, 1.1))
    target = gaussian(b)
    work = {
        "precision, recall, density, coverage": lambda: neighbourhoods(b, a).precision,
        "kernel distance and its error": lambda: kernel_distance(a, b)[0],
        "Monge distance": lambda: monge_distance(a, b),
        "Fréchet distance": lambda: frechet_distance(*gaussian(a), *target),
        "error of the Fréchet distance": lambda: frechet_error(a, *target),
    }
    total = 0.0
    for name, call in work.items():
        start, used = time.perf_counter(), time.process_time()
        value = call()
        seconds, used = time.perf_counter() - start, time.process_time() - used
        total += seconds
        print(f"{name:<40} {seconds:7.1f} s, CPU {used:7.1f} s {value:14.6g} {peak():6.2f} GB so far", flush=True)
    print(f"{total:.1f}")


@click.command()
@click.option("--num", default=10_000, show_default=True, help="Images of each set.")
@click.option("--dim", default=1280, show_default=True, help="Feature dimensions.")
@click.option("--whole", "is_whole", is_flag=True, help="Score images from end to end, and measure memory.")
@click.option("--metrics", default="fid,kid,pr", show_default=True, help="Metrics of --whole.")
@click.option("--ref", hidden=True, help="What the process of --whole scores against.")
def main(num: int, dim: int, is_whole: bool, metrics: str, ref: str | None) -> None:
    """Time the metrics of two sets of features; the last line is all seconds, with --whole the GB beyond the start."""
    if ref is not None:
        return whole(ref, num, dim, metrics)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{num} images against {num}, {dim} dimensions")
    if is_whole:
        run_whole(num, dim, metrics)
    else:
        run_each(num, dim)


if __name__ == "__main__":
    cli.run(main)
