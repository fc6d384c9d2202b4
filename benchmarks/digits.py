"""Judges samples of small pictures such as digits by what class agreement hides: variety.

    python -m benchmarks.digits --train=digits.zip --test=digits-test.zip samples/ [samples2/ ...]

Prints for each folder (`generate.py --labels`), and first for the training images themselves:
- recognised: share of samples that a support vector classifier trained on real images assigns to their class
  (`evaluate.py svc`); of the real images it is the held-out ones that are recognised;
- useful: share of real held-out images that such a classifier trained on the samples gets right;
- Fréchet: Fréchet distance of the pixels to the held-out images. Few images make it larger, so give as many samples as
  there are training images, or about that;
- deviation: of pixels within a class, over that of the training images: repeated class means have 0.
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


def deviation(images: np.ndarray, labels: np.ndarray) -> float:
    """Return the root of the mean variance of pixels in [0, 1] within a class."""
    rows = pixels(images)
    parts = [rows[labels == label] for label in np.unique(labels)]
    return float(np.sqrt(np.mean([part.var(axis=0).mean() for part in parts])))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Fréchet distance of pixels in [0, 1]."""
    moments = [(rows.mean(0), np.cov(rows, rowvar=False)) for rows in (pixels(one), pixels(other))]
    return frechet_distance(*(torch.from_numpy(moment) for pair in moments for moment in pair))


def judged(name: str, images, labels, train, test, C: float, gamma) -> dict:
    """Return the figures of one set of images; `train` and `test` are pairs of real images and classes."""
    known, seen = PixelClassifier(*train, C, gamma), test if images is train[0] else (images, labels)
    return {
        "images": name,
        "number": len(images),
        "recognised": known.agreement(*seen),
        "svc": PixelClassifier(images, labels, C, gamma).agreement(*test),
        "frechet": distance(images, test[0]),
        "deviation": deviation(images, labels) / deviation(*train),
    }


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
    heads = ("recognised %", "useful %", "Fréchet", "of real", "deviation")
    print(f"{'images':30} {'number':>7} " + " ".join(f"{head:>12}" for head in heads))
    for name in (given.train, *given.samples):
        images, labels = train if name == given.train else read(name)
        row = judged(name, images, labels, train, test, given.C, gamma)
        rows.append(row)
        far, share = row["frechet"], f"{100 * row['recognised']:12.1f} {100 * row['svc']:12.1f}"
        print(f"{name[-30:]:30} {len(images):7} {share} {far:12.4f}", end=" ")
        print(f"{far / rows[0]['frechet']:11.1f}x {row['deviation']:12.2f}")
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2))
    return rows


if __name__ == "__main__":
    main()
