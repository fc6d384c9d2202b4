"""Evaluate images: Fréchet distance to a reference (FID), reference statistics, and class agreement by an SVC.

python fid.py ref --data=cifar10.zip --dest=cifar10.npz
python fid.py calc --images=samples/ --ref=cifar10.npz --num=50000
torchrun --standalone --nproc_per_node=8 fid.py calc --network=snapshot.pkl --seeds=0-49999 --ref=cifar10.npz
"""

import json
from dataclasses import fields

import click

from elucid.commands.command import Group, Name, section, version_option
from elucid.commands.processes import processes
from elucid.commands.sampling_flags import sample_options, sampling_flags
from elucid.dnnlib import cli
from elucid.metrics.names import DETECTORS
from elucid.training.sampling.options import SampleOptions

_detector = Name("detector", DETECTORS)
_NAMES = (
    "inception (as in FID), dinov2, efflite0, efflite0_96, squeezenet (weights from the extra `detectors`), "
    "random (needs no weights) or file.py:Name."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line.")
WORK = section(
    "Work",
    click.option("--detector-weights", metavar="FILE|URL", help="Weights to use instead of the public ones."),
    click.option("--batch", type=cli.Count(), default=64, help="Batch size per process.  [default: 64]"),
    click.option("--workers", type=cli.Count(), metavar="INT", help="Decoding threads.  [default: one per core]"),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
)
IMAGES = section(
    "Images",
    click.option("--images", metavar="DIR|ZIP", help="Images to score."),
    click.option(
        "--seeds",
        type=cli.IntRange(),
        metavar="LIST",
        help="Seeds to sample with --network, e.g. 0-49999.",
    ),
    click.option(
        "--num",
        "--num-images",
        "num",
        type=cli.Count(min=2),
        help="Number of images to score (under torchrun: --num-images).  [default: 50000, or all --seeds]",
    ),
    click.option("--seed", type=cli.Count(min=0), default=0, help="Seed of a subset of --num images.  [default: 0]"),
)
SCORE = section(
    "Score",
    click.option("--ref", metavar="NPZ|URL", required=True, help="Reference statistics from `ref` or EDM's scripts."),
    click.option("--detector", type=_detector, help=f"{_NAMES}  [default: the reference's]"),
    _json,
)


@click.group(
    cls=Group,
    no_args_is_help=False,
    examples=[
        "fid.py ref --data=images.zip --dest=images.npz",
        "fid.py calc --images=samples/ --ref=images.npz --num=50000",
    ],
)
@version_option
@click.pass_context
def main(context: click.Context) -> None:
    """Evaluate generated images. The last line of stdout is the number alone; notes go to stderr."""


@main.command()
@IMAGES
@SCORE
@WORK
@sampling_flags(required=False)
@click.pass_context
def calc(
    ctx, images, network, seeds, ref, num, seed, detector, as_json, detector_weights, batch, workers, device, **flags
):
    """Compute the Fréchet distance of images to a reference in the features of a detector.

    The images are read from a folder or zip, or sampled from a snapshot as in generate.py, with the same flags.
    """
    require_one_source(ctx, images, network, seeds, num, flags)
    options = sample_options(flags)
    from elucid.api import scoring  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed

    try:
        place = distributed.choose_device(device)
        distributed.init(place)
        source = scoring.sampled(network, seeds, options, place, batch) if network else images
        how = {"detector": detector, "detector_weights": detector_weights, "batch": batch, "workers": workers}
        score = scoring.score(source, ref, num=None if network else num, seed=seed, device=device, **how)
        against = f"{score.ref_images or 'unknown many'} images of {ref}"
        distributed.print0(f"{score.name}: {score.num_images} images of {images or network} against {against}")
        distributed.print0(json.dumps(score.as_dict()) if as_json else f"{score.value:.6g}")
    finally:
        distributed.shutdown()


def require_one_source(ctx: click.Context, images, network, seeds, num, flags: dict) -> None:
    """Raise UsageError for contradicting flags."""
    if network is None:
        if images is None:
            raise click.UsageError("give --images=DIR|ZIP, or --network=SNAPSHOT with --seeds=0-49999")
        if seeds is not None:
            raise click.UsageError("--seeds goes with --network; a subset of --images is chosen by --num and --seed")
        names = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
        for name in (field.name for field in fields(SampleOptions)):
            if flags[name] not in (None, ()):
                raise click.UsageError(f"{names[name]} is for sampling with --network; leave it out with --images")
        return
    if images is not None:
        raise click.UsageError("--images and --network exclude each other; give one of them")
    if seeds is None:
        raise click.UsageError("--network needs --seeds, for example --seeds=0-49999")
    if num not in (None, len(set(seeds))):
        raise click.UsageError(f"--num={num} but {len(set(seeds))} different --seeds; leave --num out")


@main.command()
@section(
    "Files",
    click.option("--data", metavar="DIR|ZIP", required=True, help="Images for the reference; all are used."),
    click.option("--dest", metavar="NPZ", required=True, help="File to write."),
    click.option("--detector", type=_detector, default="inception", help=f"{_NAMES}  [default: inception]"),
)
@WORK
def ref(data, dest, **how) -> None:
    """Compute the reference statistics of a dataset."""
    from elucid.api import scoring
    from elucid.torch_utils import distributed

    try:
        distributed.print0(scoring.reference(data, dest, **how))
    finally:
        distributed.shutdown()


@main.command()
@section(
    "Images",
    click.option("--data", metavar="DIR|ZIP", required=True, help="Real labelled images to train on."),
    click.option("--test", metavar="DIR|ZIP", help="Held-out real labelled images, to test the classifier."),
    click.option("--images", metavar="DIR|ZIP", required=True, help="Samples with dataset.json: generate.py --labels."),
    _json,
)
def svc(data, test, images, as_json) -> None:
    """Compute the percentage of samples that a support vector classifier assigns to their class.

    It is trained on the pixels of at most 5000 real images, which is suitable for digits but not for photographs.
    """
    from elucid.api import scoring

    result = scoring.class_agreement(data, images, test)
    click.echo(json.dumps(result) if as_json else f"{result['value']:.2f}")


def run() -> None:
    """Run the command line and exit."""
    cli.run(main, peers=processes())
