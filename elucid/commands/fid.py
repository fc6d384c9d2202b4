"""Score images: Fréchet distance to a reference (FID), the reference itself, and class agreement by an SVC.

python fid.py ref --data=cifar10.zip --dest=cifar10.npz
python fid.py calc --images=samples/ --ref=cifar10.npz --num=50000
torchrun --standalone --nproc_per_node=8 fid.py calc --network=snapshot.pkl --seeds=0-49999 --ref=cifar10.npz
"""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import click
import numpy as np
import torch
from torch import Tensor

from elucid.commands.sampling_flags import sampling_options
from elucid.dnnlib import cli
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.metrics.detectors import make_detector
from elucid.metrics.frechet import frechet_distance
from elucid.metrics.images import feature_statistics, read_batches
from elucid.metrics.reference import Reference, load_reference, require_same_detector, save_reference
from elucid.metrics.svc import PixelClassifier, interval
from elucid.torch_utils import distributed
from elucid.torch_utils.torchrun_errors import Peers
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.sampling.folder import read_note
from elucid.training.sampling.pipeline import prepare

DEFAULT_NUM = 50000

FLAGS_OF_IMAGES = set(
    "images network seeds ref num seed detector as_json detector_weights batch workers device".split()
)
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


@click.group(no_args_is_help=False, context_settings={"show_default": True, "max_content_width": 120})
@click.pass_context
def main(context: click.Context) -> None:
    """Score generated images. Results go to stdout, the number alone on its last line; notes go to stderr."""
    context.call_on_close(distributed.shutdown)


@main.command()
@click.option("--images", metavar="DIR|ZIP", help="Images to score.")
@click.option("--network", metavar="PKL|URL", help="Score what this snapshot draws, instead of --images.")
@click.option("--seeds", type=cli.IntRange(), metavar="LIST", help="Seeds to draw with --network, e.g. 0-49999.")
@click.option("--ref", metavar="NPZ|URL", required=True, help="Reference, made by `ref` or by EDM's programs.")
@click.option(
    "--num",
    "--num-images",
    "num",
    type=click.IntRange(min=2),
    help="Images to score, of as many at least (under torchrun write --num-images).  [default: 50000, or all --seeds]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Chooses --num of more images.")
@click.option("--detector", metavar="NAME", help=f"{NAME_HELP}  [default: the reference's]")
@click.option("--json", "as_json", is_flag=True, help="Last line: a JSON object that also says what was measured.")
@shared_options
@sampling_options
def calc(**flags) -> None:
    """Fréchet distance between images and a reference, in the features of one detector.

    The images are those of a folder or zip, or are drawn from a snapshot as generate.py draws them, by the same flags.
    """
    device = distributed.choose_device(flags["device"])
    distributed.init(device)
    reference = load_reference(flags["ref"])
    source = from_network(flags, device) if flags["network"] else from_files(flags)
    detector = make_detector(flags["detector"] or own_detector(reference), device, flags["detector_weights"])
    require_same_detector(reference, detector)
    warn_of_few(source.num, detector.dim)
    statistics = feature_statistics(detector, source.batches, source.num)
    distance = frechet_distance(statistics.mean, statistics.covariance, reference.mean, reference.covariance)
    count = f"{source.num // 1000}k" if source.num % 1000 == 0 else f"{source.num}"
    result = {
        "name": f"fid{count}_{detector.name}",
        "value": distance,
        "num_images": source.num,
        "ref_images": reference.num_images,
        **source.about,
        "detector": detector.name,
        "detector_sha256": detector.sha256,
        "resize": detector.resize,
        "ref": flags["ref"],
    }
    origin = flags["images"] or flags["network"]
    line = f"{result['name']}: {source.num} images of {origin} against {reference.count} images of {flags['ref']}"
    distributed.print0(line)
    distributed.print0(json.dumps(result) if flags["as_json"] else f"{distance:.6g}")


@main.command()
@click.option("--data", metavar="DIR|ZIP", required=True, help="Images of the reference, all of them.")
@click.option("--dest", metavar="NPZ", required=True, help="File to write.")
@click.option("--detector", metavar="NAME", default="inception", help=NAME_HELP)
@shared_options
def ref(data, dest, detector, detector_weights, batch, workers, device) -> None:
    """Statistics of a data set, to compare images with."""
    if not dest.endswith(".npz"):
        raise UserError(f"--dest={dest} must end in .npz")
    if distributed.is_main():
        require_writable(dest)
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


def own_detector(reference: Reference) -> str:
    """The name of the reference's detector. A reference is data: it does not choose code from outside to be run."""
    if ":" in reference.detector:
        raise UserError(
            f"{reference.path} was made with {reference.detector}, which is not of this program; "
            f"if you trust it, give --detector={reference.detector}"
        )
    return reference.detector


@dataclass
class Source:
    """This process's batches u8[B,C,H,W] of `num` images in all, and what is to be said about them."""

    batches: Iterator[Tensor]
    num: int
    about: dict


def from_files(flags: dict) -> Source:
    """The images of --images. Raises UserError for flags that only go with --network."""
    if flags["images"] is None:
        raise UserError("give --images=DIR|ZIP, or --network=SNAPSHOT with --seeds=0-49999")
    if flags["seeds"] is not None:
        raise UserError("--seeds goes with --network; a subset of --images is chosen by --num and --seed")
    for name, value in flags.items():
        if name not in FLAGS_OF_IMAGES and value not in (None, ()):
            raise UserError(f"--{name.removesuffix('_idx')} is for sampling with --network; leave it out with --images")
    num = flags["num"] or DEFAULT_NUM
    dataset = open_exactly(flags["images"], num, flags["seed"])
    about = {"images": flags["images"], "seed": flags["seed"]}
    return Source(read_batches(dataset, flags["batch"], flags["workers"]), num, about)


def from_network(flags: dict, device: torch.device) -> Source:
    """The images that --network draws for --seeds, each once."""
    if flags["images"] is not None:
        raise UserError("--images and --network exclude each other; give one of them")
    if flags["seeds"] is None:
        raise UserError("--network needs --seeds, for example --seeds=0-49999")
    seeds = list(dict.fromkeys(flags["seeds"]))
    if flags["num"] not in (None, len(seeds)):
        raise UserError(f"--num={flags['num']} but {len(seeds)} different --seeds; leave --num out")
    prepared = prepare(flags["network"], flags, device)
    share = min(flags["batch"], -(-len(seeds) // distributed.world_size()))
    mine = [seed for part in distributed.rank_share(seeds, share) for seed in part]
    samples = prepared.generate(mine, flags["batch"])
    sampling = {**prepared.description, "network_sha256": prepared.description["network"]}
    about = {"seeds": spans(seeds), "sampling": {**sampling, "network": flags["network"]}}
    return Source((part.images for part in samples), len(seeds), about)


def spans(numbers: list[int]) -> str:
    """Numbers as text with ranges: [0, 1, 2, 7] -> `0-2,7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


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
        warn(f"{len(stray)} images of {path} have no label, others have (first: {stray[0]}); left by an earlier run?")
    if distributed.is_main() and len(runs := runs_of(dataset)) > 1:
        warn(f"{path} holds samples of {len(runs)} different runs ({', '.join(map(str, runs.values()))} images)")
    return dataset


def runs_of(dataset: ImageDataset) -> dict[str | None, int]:
    """Images by the options that made them, as far as generate.py wrote that into its samples."""
    counts: dict[str | None, int] = {}
    for index in range(len(dataset)):
        note = read_note(io.BytesIO(dataset.encoded(index)))
        if note is None and index == 0:
            break  # not a folder of samples: do not read all of it twice
        made_by = (note or {}).get("by")
        counts[made_by] = counts.get(made_by, 0) + 1
    return counts


def labelled(path: str) -> tuple[np.ndarray, np.ndarray]:
    """All images u8[N,C,H,W] and class numbers [N] of a data set; UserError where an image has none."""
    dataset = open_dataset(path)
    if dataset.labels is None or not dataset.labels.are_classes:
        raise UserError(f"{path} has no class labels; make samples with generate.py --labels")
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


def run() -> None:
    """The whole program; ends the process."""
    cli.run(main, peers=Peers())
