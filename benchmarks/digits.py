"""Judges samples of small pictures such as digits by what class agreement hides: variety.

    python -m benchmarks.digits --train=digits.zip --test=digits-test.zip samples/ [samples2/ ...]

Prints for each folder (`generate.py --labels`) how many real held-out images a support vector classifier that was
trained on the samples gets right, beside one trained on real images, and the Fréchet distance of the pixels to the
held-out images, beside that of the training images. Few images make a Fréchet distance larger, so give as many samples
as there are training images, or about that.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from elucid.evaluation.svc import PixelClassifier, pixels
from elucid.metrics.frechet import frechet_distance
from elucid.training.data.dataset import open_dataset


def read(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images u8[N,C,H,W] and their classes."""
    dataset = open_dataset(path, use_labels=True)
    images = np.stack([dataset.image(index) for index in range(len(dataset))])
    labels = np.stack([dataset.label(index) for index in range(len(dataset))])
    return images, labels.argmax(1)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Fréchet distance of pixels in [0, 1]."""
    moments = [(rows.mean(0), np.cov(rows, rowvar=False)) for rows in (pixels(one), pixels(other))]
    return frechet_distance(*(torch.from_numpy(moment) for pair in moments for moment in pair))


def main(argv=None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", nargs="+")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--C", type=float, default=10.0)
    parser.add_argument("--gamma", type=float, default=None, help="default: scale")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    gamma = "scale" if given.gamma is None else given.gamma
    train, test = read(given.train), read(given.test)
    rows = []
    print(f"{'images':30} {'number':>7} {'SVC on held-out %':>18} {'Fréchet':>9} {'of real':>8}")
    for name in (given.train, *given.samples):
        images, labels = train if name == given.train else read(name)
        accuracy = PixelClassifier(images, labels, given.C, gamma).agreement(*test)
        far = distance(images, test[0])
        rows.append({"images": name, "number": len(images), "svc": accuracy, "frechet": far})
        times = far / rows[0]["frechet"]
        print(f"{name[-30:]:30} {len(images):7} {100 * accuracy:18.1f} {far:9.4f} {times:7.1f}x")
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2))
    return rows


if __name__ == "__main__":
    main()
