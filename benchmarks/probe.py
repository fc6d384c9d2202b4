"""What detectors see: classes told apart by a linear model of their features, beside one of pixels; and their speed.

    python benchmarks/probe.py --data=ZIP [--detectors=efflite0,squeezenet] [--train=1000] [--test=1000] [--seeds=3]

Logistic regression on standardised features, trained on some of the labelled images and tried on others, both drawn by
a seed. The weight decay is chosen among three by cross-validation on the training images.
"""

import platform
import sys
import time
import warnings
from pathlib import Path

import click
import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from elucid.api.scoring import labelled  # noqa: E402
from elucid.dnnlib import cli  # noqa: E402
from elucid.dnnlib.errors import UserError  # noqa: E402
from elucid.metrics.detectors import Detector, make_detector  # noqa: E402

BATCH = 50
STRENGTHS = (1e-4, 1e-3, 1e-2)  # inverse weight decays


def features_of(detector: Detector, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Features [N,D] of images u8[N,C,H,W], and images/s after a first batch."""
    batches = torch.from_numpy(images).split(BATCH)
    detector(batches[0])
    start = time.perf_counter()
    features = torch.cat([detector(batch).cpu() for batch in batches])
    return features.double().numpy(), len(images) / (time.perf_counter() - start)


def accuracy(features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Share of the test images whose class a linear model of the features finds."""
    probe = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=STRENGTHS, cv=3, max_iter=100))
    with threadpool_limits(1), warnings.catch_warnings():  # threads of BLAS hinder those of torch on a busy machine
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)  # of scikit-learn about its own defaults
        probe.fit(features[train], labels[train])
    return float(probe.score(features[test], labels[test]))


@click.command()
@click.option("--data", required=True, help="Labelled images: a folder or zip.")
@click.option("--detectors", default="random,squeezenet,efflite0_96,efflite0", show_default=True)
@click.option("--train", type=cli.Count(min=10), default=1000, show_default=True, help="Images to train on.")
@click.option("--test", type=cli.Count(min=10), default=1000, show_default=True, help="Other images to try it on.")
@click.option("--seeds", type=cli.Count(), default=3, show_default=True, help="Divisions into train and test.")
@click.option("--device", default="cpu", show_default=True)
def main(data: str, detectors: str, train: int, test: int, seeds: int, device: str) -> None:
    """Print dimensions, accuracy (mean and spread over the seeds) and images/s of each detector."""
    opened = {name: make_detector(name, torch.device(device)) for name in detectors.split(",")}
    images, labels = labelled(data)
    if len(images) < train + test:
        raise UserError(f"{data} has {len(images)} images, fewer than --train={train} and --test={test} together")
    chosen = np.random.RandomState(0).permutation(len(images))[: train + test]
    images, labels = images[chosen], labels[chosen]
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {device}"
    )
    print(f"torch {torch.__version__}; {train} images of {images.shape[1:]} to train on, {test} to test, {seeds} seeds")
    print(f"{'features':12} {'dim':>5} {'accuracy':>15} {'images/s':>9}")
    report("pixels", images.reshape(len(images), -1) / 255, labels, train, seeds)
    for name, detector in opened.items():
        features, speed = features_of(detector, images)
        report(name, features, labels, train, seeds, speed)


def report(name: str, features: np.ndarray, labels: np.ndarray, train: int, seeds: int, speed: float | None = None):
    """Print a line of the table."""
    orders = [np.random.RandomState(seed).permutation(len(features)) for seed in range(seeds)]
    found = [100 * accuracy(features, labels, order[:train], order[train:]) for order in orders]
    shares = f"{np.mean(found):.1f} +- {np.std(found):.1f} %"
    print(f"{name:12} {features.shape[1]:5} {shares:>15} {'' if speed is None else f'{speed:.1f}':>9}", flush=True)


if __name__ == "__main__":
    cli.run(main)
