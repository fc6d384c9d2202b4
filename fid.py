"""Score images: Fréchet distance to a reference (FID), the reference itself, and class agreement by an SVC.

    python fid.py ref --data=cifar10.zip --dest=cifar10.npz
    python fid.py calc --images=samples/ --ref=cifar10.npz --num=50000
    torchrun --standalone --nproc_per_node=8 fid.py calc --network=snapshot.pkl --seeds=0-49999 --ref=cifar10.npz

Read next: `metrics/images.py`.
"""

import json
import sys

import click
import numpy as np

from dnnlib import cli
from dnnlib.errors import UserError
from metrics.detectors import make_detector
from metrics.frechet import frechet_distance
from metrics.images import feature_statistics, read_batches
from metrics.reference import load_reference, require_same_detector, save_reference
from metrics.svc import PixelClassifier, interval
from torch_utils import distributed
from training.dataset import ImageDataset, open_dataset

NAME_HELP = "inception (the FID's), random (no weights needed), module:Name or file.py:Name."


def shared_options(command):
    """Options of both `calc` and `ref`."""
    options = [
        click.option(
            "--detector-weights", metavar="FILE|URL", help="Inception weights, instead of the public download."
        ),
        click.option("--batch", type=click.IntRange(min=1), default=64, help="Images per pass and process."),
        click.option(
            "--workers", type=click.IntRange(min=1), metavar="INT", help="Threads that decode; default: cores."
        ),
        click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1  [default: cuda if there is one, else cpu]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"show_default": True, "max_content_width": 120})
def main() -> None:
    """Score generated images. Results go to stdout, the number alone on its last line; notes go to stderr."""


@main.command()
@click.option("--images", metavar="DIR|ZIP", required=True, help="Images to score.")
@click.option("--ref", metavar="NPZ|URL", required=True, help="Reference, made by `ref` or by EDM's programs.")
@click.option(
    "--num",
    "--num-images",
    "num",
    type=click.IntRange(min=2),
    default=50000,
    help="Images to score; fewer at hand is an error. Under torchrun say --num-images: it has a --numa-binding.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Chooses --num of more images.")
@click.option("--detector", metavar="NAME", help=f"{NAME_HELP}  [default: the reference's]")
@click.option("--json", "as_json", is_flag=True, help="Last line: a JSON object that also says what was measured.")
@shared_options
def calc(images, ref, num, seed, detector, detector_weights, batch, workers, device, as_json) -> None:
    """Fréchet distance between images and a reference, in the features of one detector."""
    device = distributed.choose_device(device)
    distributed.init(device)
    reference = load_reference(ref)
    dataset = open_exactly(images, num, seed)
    network = make_detector(detector or reference.detector, device, detector_weights)
    require_same_detector(reference, network)
    warn_of_few(num, network.dim)
    statistics = feature_statistics(network, read_batches(dataset, batch, workers), num)
    distance = frechet_distance(statistics.mean, statistics.covariance, reference.mean, reference.covariance)
    name = f"fid{num // 1000}k_{network.name}" if num % 1000 == 0 else f"fid{num}_{network.name}"
    distributed.print0(f"{name}: {num} images of {images} against {reference.count} images of {ref}")
    result = {
        "name": name,
        "value": distance,
        "num_images": num,
        "ref_images": reference.num_images,
        "seed": seed,
        "detector": network.name,
        "detector_sha256": network.sha256,
        "resize": network.resize,
        "images": str(images),
        "ref": str(ref),
    }
    distributed.print0(json.dumps(result) if as_json else f"{distance:.6g}")


@main.command()
@click.option("--data", metavar="DIR|ZIP", required=True, help="Images of the reference, all of them.")
@click.option("--dest", metavar="NPZ", required=True, help="File to write.")
@click.option("--detector", metavar="NAME", default="inception", help=NAME_HELP)
@shared_options
def ref(data, dest, detector, detector_weights, batch, workers, device) -> None:
    """Statistics of a data set, to compare images with."""
    if not dest.endswith(".npz"):
        raise UserError(f"--dest={dest} must end in .npz")
    device = distributed.choose_device(device)
    distributed.init(device)
    dataset = open_dataset(data)
    network = make_detector(detector, device, detector_weights)
    warn_of_few(len(dataset), network.dim)
    statistics = feature_statistics(network, read_batches(dataset, batch, workers), len(dataset))
    if distributed.is_main():
        save_reference(dest, statistics, network)
    distributed.print0(f"{dest}: {network.name} features of {statistics.num} images of {data}")


@main.command()
@click.option("--data", metavar="DIR|ZIP", required=True, help="Real labelled images to train on.")
@click.option("--test", metavar="DIR|ZIP", help="Real labelled images that were held out, to judge the judge.")
@click.option("--images", metavar="DIR|ZIP", required=True, help="Samples with dataset.json: generate.py --labels.")
@click.option("--json", "as_json", is_flag=True, help="Last line: a JSON object that also says what was measured.")
def svc(data, test, images, as_json) -> None:
    """Per cent of samples that a support vector classifier assigns to the class asked for.

    It is trained on the pixels of real images, at most 5000 of them: a judge for digits, not for photographs.
    """
    real = labelled(data)
    judged = {path: labelled(path) for path in (test, images) if path is not None}
    judge = PixelClassifier(*real)
    print(f"classifier trained on {judge.num_train} images of {data}")
    result = {"name": "svc_agreement", "data": str(data), "train_images": judge.num_train}
    if test is not None:
        result |= {"test": judge_by(judge, test, *judged[test]), "test_images": len(judged[test][0])}
    result |= {"value": judge_by(judge, images, *judged[images]), "num_images": len(judged[images][0])}
    print(json.dumps(result) if as_json else f"{result['value']:.2f}")


def open_exactly(path: str, num: int, seed: int) -> ImageDataset:
    """`num` images of a folder or zip: all, or a subset fixed by the seed; UserError if there are fewer."""
    dataset = open_dataset(path, max_size=num, seed=seed)
    found = dataset.num_images
    if found < num:
        raise UserError(f"{path} has {found} images, fewer than --num={num}; generate more, or give --num={found}")
    if found > num:
        warn(
            f"{path} has {found} images, more than --num={num}; a random {num} of them are scored (--seed={seed}). "
            "If an earlier run left files there, remove them first"
        )
    elif dataset.labels is not None and len(dataset.labels.missing):
        stray = [dataset.image_name(index) for index in dataset.labels.missing]
        warn(f"{len(stray)} images of {path} are not in its dataset.json (first: {stray[0]}); left by an earlier run?")
    return dataset


def labelled(path: str) -> tuple[np.ndarray, np.ndarray]:
    """All images u8[N,C,H,W] and class numbers [N] of a data set; UserError where an image has none."""
    dataset = open_dataset(path)
    if dataset.labels is None or not dataset.labels.are_classes:
        raise UserError(f"{path} has no class labels in a dataset.json; make samples with generate.py --labels")
    missing = dataset.labels.missing
    if len(missing):
        stray = dataset.image_name(missing[0])
        raise UserError(
            f"{path}: {len(missing)} images have no label (first: {stray}); remove what an earlier run left"
        )
    images = np.concatenate([batch.numpy() for batch in read_batches(dataset, 256)])
    return images, dataset.raw_labels


def judge_by(judge: PixelClassifier, path: str, images: np.ndarray, labels: np.ndarray) -> float:
    """Print and return the per cent of images that the classifier assigns to their class."""
    share = judge.agreement(images, labels)
    low, high = interval(share, len(images))
    print(f"{100 * share:.2f} % of {len(images)} images of {path} (95 % interval {100 * low:.1f} to {100 * high:.1f})")
    return 100 * share


def warn_of_few(num: int, dim: int) -> None:
    if num <= dim:
        warn(f"{num} images do not fill {dim} dimensions; compare this only with distances of as many images")


def warn(text: str) -> None:
    distributed.print0(f"warning: {text}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
