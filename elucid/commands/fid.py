"""Evaluate images: distances to a reference (FID and others), reference statistics, and class agreement by an SVC.

python fid.py ref --data=cifar10.zip --dest=cifar10.npz --features
python fid.py calc --images=samples/ --ref=cifar10.npz --num=50000 --metrics=fid,kid,pr,dc
torchrun --standalone --nproc_per_node=8 fid.py calc --network=snapshot.pkl --seeds=0-49999 --ref=cifar10.npz
"""

import json

import click

from elucid.commands.command import Group, Name, section, version_option
from elucid.commands.flags.sampling import require_one_source, sample_options, sampling_flags
from elucid.commands.flags.scoring import Metrics
from elucid.commands.processes import processes
from elucid.dnnlib import cli
from elucid.metrics.measures.names import METRICS
from elucid.metrics.names import DETECTORS

_detector = Name("detector", DETECTORS)
_NAMES = (
    "inception (as in FID), dinov2, efflite0, efflite0_96, squeezenet (weights from the extra `detectors`), "
    "random (needs no weights) or file.py:Name."
)


class _Detectors(Name):
    """Detectors, separated by commas."""

    def convert(self, value, param, ctx):
        return [super(_Detectors, self).convert(one.strip(), param, ctx) for one in value.split(",")]


_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line.")
WORK = section(
    "Work",
    click.option("--detector-weights", metavar="FILE|URL", help="Weights to use instead of the public ones."),
    click.option(
        "--batch",
        type=cli.Count(),
        default=64,
        help="Images per process to decode or sample at once; scores do not depend on it.  [default: 64]",
    ),
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
    click.option(
        "--ref",
        metavar="NPZ|URL|DIR|ZIP",
        multiple=True,
        help="Reference from `ref` or EDM's scripts, or images; one file for each detector.",
    ),
    click.option(
        "--metrics",
        type=Metrics(),
        default="fid",
        help=f"{', '.join(METRICS)}: pr is precision and recall, dc density and coverage.  [default: fid]",
    ),
    click.option(
        "--detector",
        type=_Detectors("detector", DETECTORS),
        metavar="LIST",
        help=f"{_NAMES}  [default: the reference's]",
    ),
    click.option("--interval", "intervals", is_flag=True, help="Also a 95 % interval of fid and sfid, as others have."),
    click.option(
        "--blocks",
        type=cli.Count(min=2),
        metavar="INT",
        help="Score so many disjoint blocks of --seeds, and their spread.",
    ),
    click.option("--features", metavar="NPZ", help="Also write the features of the images to this file."),
    click.option(
        "--cache",
        type=click.BOOL,
        metavar="0|1",
        default=True,
        help="Keep what is computed of a --ref of images for the next time.  [default: 1]",
    ),
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
    """Evaluate generated images. The last line of stdout is the number alone, of one metric; notes go to stderr."""


@main.command()
@IMAGES
@SCORE
@WORK
@sampling_flags()
@click.pass_context
def calc(ctx, images, network, seeds, num, seed, as_json, batch, workers, device, blocks, features, **others):
    """Compute metrics of images against a reference in the features of a detector; by default the Fréchet distance.

    The images are read from a folder or zip, or sampled from a snapshot as in generate.py, with the same flags.
    """
    how = {name: others.pop(name) for name in ("ref", "metrics", "detector", "detector_weights", "intervals", "cache")}
    how |= {"ref": how["ref"] or None, "batch": batch, "workers": workers}
    require_one_source(ctx, images, network, seeds, num, others)
    if how["ref"] is None and how["metrics"] != ("is",):
        raise click.UsageError("--ref is missing; see fid.py calc --help")
    if blocks is not None and network is None:
        raise click.UsageError("--blocks divides the --seeds of a --network; leave it out with --images")
    if blocks is not None and features is not None:
        raise click.UsageError("--features is for one set of images; leave --blocks out")
    options = sample_options(others)
    from elucid.api import scoring  # imported late: --help and usage errors need no torch
    from elucid.api.sources import sampled
    from elucid.torch_utils import distributed

    try:
        if blocks is not None:
            scores = scoring.score_blocks(network, seeds, options, blocks, device=device, **how)
        else:
            place = distributed.choose_device(device)
            distributed.init(place)
            source = sampled(network, seeds, options, place, batch) if network else images
            count = None if network else num
            scores = [scoring.score(source, num=count, seed=seed, device=device, features=features, **how)]
        distributed.print0("\n".join(report(scores, images or network, as_json)))
    finally:
        distributed.shutdown()


def report(scores: list, source: str, as_json: bool) -> list[str]:
    """Return the lines that are printed of the scores of one set of images, or of several blocks of seeds.

    The last is a number alone if there is one metric, and a JSON object if asked for.
    """
    from elucid.api.scoring import spread

    first, lines = scores[0], []
    for one in scores:
        against = f"{one.ref_images or 'unknown many'} images of {one.about['ref']}"
        seeds = f", seeds {one.about['seeds']}" if len(scores) > 1 else ""
        lines += [*one.records(), f"{one.name}: {one.num_images} images of {source}{seeds} against {against}"]
        if len(one.metrics) > 1 or one.metrics[0].interval or len(scores) > 1:
            lines += [metric.line for metric in one.metrics]
    blocks = spread(scores) if len(scores) > 1 else []
    for metric in blocks:
        numbers = (f"{key} {metric[key]:.6g}" for key in ("minimum", "mean", "deviation"))
        lines.append(f"{metric['name']} of {len(scores)} blocks: {', '.join(numbers)}")
    if as_json:
        shown = {"blocks": [one.as_dict() for one in scores], "spread": blocks} if blocks else first.as_dict()
        lines.append(json.dumps(shown))
    elif len(first.metrics) == 1:
        lines.append(f"{blocks[0]['mean'] if blocks else first.value:.6g}")
    return lines


@main.command()
@section(
    "Files",
    click.option("--data", metavar="DIR|ZIP", required=True, help="Images for the reference; all are used."),
    click.option("--dest", metavar="NPZ", required=True, help="File to write."),
    click.option("--detector", type=_detector, default="inception", help=f"{_NAMES}  [default: inception]"),
    click.option("--features", is_flag=True, help="Also store the features, for kid, pr and dc, and what sfid needs."),
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
    """Compute the percentage of samples that a support vector classifier assigns to their class: evaluate.py svc.

    It is trained on the pixels of at most 5000 real images, which is suitable for digits but not for photographs.
    """
    from elucid.api.evaluations.agreement import class_agreement

    result = class_agreement(data, images, test)
    click.echo(json.dumps(result) if as_json else f"{result['value']:.2f}")


def run() -> None:
    """Run the command line and exit."""
    cli.run(main, peers=processes())
