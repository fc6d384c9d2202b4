"""`evaluate.py memorisation --images=samples --train=train.zip --test=test.zip`: copies of training images."""

import json

import click

from elucid.commands.command import Command, Name, section
from elucid.commands.flags.sampling import require_one_source, sample_options, sampling_flags
from elucid.dnnlib import cli
from elucid.metrics.names import DETECTORS


@click.command(
    "memorisation",
    cls=Command,
    examples=[
        "evaluate.py memorisation --images=samples/ --train=train.zip --test=test.zip --dest=memorisation.json",
        "evaluate.py memorisation --network=RUN --seeds=0-4999 --train=train.zip --test=test.zip",
    ],
)
@section(
    "Images",
    click.option("--images", metavar="DIR|ZIP", help="Samples to test."),
    click.option("--seeds", type=cli.IntRange(), metavar="LIST", help="Seeds to sample with --network, e.g. 0-4999."),
    click.option("--train", metavar="DIR|ZIP", required=True, help="The images that the model was trained on."),
    click.option("--test", metavar="DIR|ZIP", required=True, help="Held-out real images, to know what is normal."),
    click.option(
        "--num", "--num-images", "num", type=cli.Count(min=2), help="Number of samples of --images.  [default: all]"
    ),
    click.option(
        "--seed", type=cli.Count(min=0), default=0, help="Seed of a subset, of planted copies and cells.  [default: 0]"
    ),
)
@section(
    "Measures",
    click.option(
        "--detector",
        type=Name("detector", DETECTORS, also=("pixels",)),
        default="efflite0",
        help=f"Features: pixels (digits), {', '.join(DETECTORS)} or file.py:Name.  [default: efflite0]",
    ),
    click.option("--detector-weights", metavar="FILE|URL", help="Weights to use instead of the public ones."),
    click.option("--cells", type=cli.Count(), help="Cells of C_T.  [default: one per 100 images, at most 50]"),
    click.option("--neighbours", type=cli.Count(), default=4, help="Training images beside a sample.  [default: 4]"),
    click.option("--rows", type=cli.Count(), default=24, help="Samples on the sheet.  [default: 24]"),
    click.option("--dest", metavar="JSON", help="File for the result; the sheet is written beside it as PNG."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
)
@section(
    "Work",
    click.option("--batch", type=cli.Count(), default=64, help="Batch size per process.  [default: 64]"),
    click.option("--workers", type=cli.Count(), metavar="INT", help="Decoding threads.  [default: one per core]"),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
)
@sampling_flags()
@click.pass_context
def command(ctx, images, network, seeds, train, test, num, as_json, **others) -> None:
    """Test samples for copies of training images, against held-out images, and with copies planted as a control."""
    own = ("seed", "detector", "detector_weights", "cells", "neighbours", "rows", "dest", "batch", "workers", "device")
    how = {name: others.pop(name) for name in own}
    require_one_source(ctx, images, network, seeds, num, others)
    options = sample_options(others)
    from elucid.api.evaluations.memorisation import memorisation  # imported late: --help needs no torch
    from elucid.torch_utils import distributed

    try:
        given = {"num": num} if network is None else {"network": network, "seeds": seeds, "options": options}
        result = memorisation(train, test, images, **given, **how)
        distributed.print0(result.text())
        distributed.print0(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
    finally:
        distributed.shutdown()
