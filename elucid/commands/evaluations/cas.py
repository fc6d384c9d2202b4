"""`evaluate.py cas --real=train.zip --images=samples/ --test=test.zip`: classification accuracy score."""

import json

import click

from elucid.commands.command import Command, section
from elucid.commands.flags.sampling import sample_options, sampling_flags
from elucid.dnnlib import cli
from elucid.evaluation.cas.names import NETS, SETS


class _Sets(click.ParamType):
    """Some of the sets to train on, separated by commas."""

    name = "list"

    def convert(self, value, param, ctx):
        names = value if isinstance(value, tuple) else tuple(one.strip() for one in value.split(","))
        for name in names:
            if name not in SETS:
                raise click.UsageError(f"--sets: unknown set {name!r}; known: {', '.join(SETS)}")
        return names


@click.command(
    "cas",
    cls=Command,
    examples=[
        "evaluate.py cas --real=train.zip --images=samples/ --test=test.zip --dest=cas.json",
        "evaluate.py cas --real=train.zip --network=RUN --steps=18 --test=test.zip --net=small --dest=cas.json",
    ],
)
@section(
    "Images",
    click.option("--real", metavar="DIR|ZIP", required=True, help="Real labelled images to train on."),
    click.option("--test", metavar="DIR|ZIP", required=True, help="Held-out real labelled images, to test on."),
    click.option("--images", metavar="DIR|ZIP", help="Synthetic images with labels, as by generate.py --labels."),
    click.option(
        "--sample_seeds",
        type=cli.IntRange(),
        metavar="LIST",
        help="Seeds to sample with --network.  [default: 0, 1, ...: as many as real images]",
    ),
    click.option(
        "--num",
        "--num-images",
        "num",
        type=cli.Count(min=2),
        help="Images of each kind to train on (under torchrun: --num-images).  [default: all real ones, as many "
        "synthetic ones]",
    ),
    click.option("--seed", type=cli.Count(min=0), default=0, help="Seed of a subset of --num images.  [default: 0]"),
)
@section(
    "Classifier",
    click.option("--net", type=click.Choice(NETS), default="resnet50", help="Network.  [default: resnet50]"),
    click.option("--sets", type=_Sets(), default=",".join(SETS), help="Sets to train on.  [default: all three]"),
    click.option("--seeds", type=cli.Count(), default=3, help="Trainings on each set.  [default: 3]"),
    click.option(
        "--epochs",
        type=cli.Count(),
        help="Length of each training, in passes over the real images.  [default: 90, small: 30]",
    ),
    click.option("--batch", type=cli.Count(min=2), default=128, help="Batch size.  [default: 128]"),
    click.option(
        "--lr", type=cli.FloatRange(min=0, min_open=True), default=0.1, help="First learning rate.  [default: 0.1]"
    ),
    click.option("--xflip", type=bool, default=False, help="Mirror images at random, not for digits.  [default: 0]"),
)
@section(
    "Work",
    click.option("--dest", metavar="JSON", help="File for the result."),
    click.option("--work", metavar="DIR", help="Folder for finished trainings and samples.  [default: DEST.work]"),
    click.option("--sample_batch", type=cli.Count(), default=64, help="Batch size of --network.  [default: 64]"),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
)
@sampling_flags(net=False)
@click.pass_context
def command(ctx, real, test, images, network, as_json, **flags) -> None:
    """Compute the classification accuracy score: how well synthetic images teach what real test images show.

    A classifier is trained on synthetic images, another on real ones, another on both, with as many steps; all are
    tested on real held-out images. The same command goes on where it was cut short. The number is the top-1 accuracy
    in percent after training on synthetic images. With --network, classes are by default as frequent as in its data.
    """
    names = ("sample_seeds", "sample_batch", "num", "seed", "sets", "net", "seeds", "epochs", "batch", "lr", "xflip")
    how = {name: flags.pop(name) for name in (*names, "dest", "work", "device")}
    require_one_source(ctx, images, network, how["sample_seeds"], flags)
    options = sample_options(flags)
    from elucid.api.evaluations.cas import cas  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed

    try:
        result = cas(real, test, images, network=network, options=options, **how)
        distributed.print0(result.text())
        distributed.print0(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
    finally:
        distributed.shutdown()


def require_one_source(ctx: click.Context, images, network, seeds, flags: dict) -> None:
    """Raise UsageError for contradicting flags."""
    if images is None and network is None:
        raise click.UsageError("give --images=DIR|ZIP with labels, or --network=SNAPSHOT to sample them")
    if images is None:
        return
    if network is not None:
        raise click.UsageError("--images and --network exclude each other; give one of them")
    names = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    for name, value in {"sample_seeds": seeds, **flags}.items():
        if value not in (None, ()):
            raise click.UsageError(f"{names[name]} is for sampling with --network; leave it out with --images")
