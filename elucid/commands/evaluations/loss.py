"""`evaluate.py loss --network=RUN --data=train.zip --test=test.zip`: held-out loss by noise level."""

import json

import click

from elucid.commands.command import Command, section
from elucid.commands.flags.model import model_flags
from elucid.dnnlib import cli


@click.command(
    "loss",
    cls=Command,
    examples=["evaluate.py loss --network=runs/00000-NAME --data=train.zip --test=test.zip --dest=loss.json"],
)
@model_flags(
    click.option("--set", "set", multiple=True, metavar="encoder.OPTION=VALUE", help="An option of the encoder.")
)
@section(
    "Images",
    click.option("--data", metavar="DIR|ZIP", required=True, help="The images that the model was trained on."),
    click.option("--test", metavar="DIR|ZIP", required=True, help="Held-out images, with labels as in training."),
    click.option(
        "--num", "--num-images", "num", type=cli.Count(min=2), help="Images of each set.  [default: all of --test]"
    ),
    click.option("--seed", type=cli.Count(min=0), default=0, help="Seed of the noise and the choice.  [default: 0]"),
)
@section(
    "Loss",
    click.option("--sigmas", type=cli.Count(), default=8, help="Number of noise levels.  [default: 8]"),
    click.option("--dest", metavar="JSON", help="File for the result, with its curves."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
)
@section(
    "Work",
    click.option("--batch", type=cli.Count(), default=64, help="Batch size per process.  [default: 64]"),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
)
def command(network, data, test, sigmas, num, seed, dest, as_json, batch, device, **options) -> None:
    """Compare the denoising loss of held-out images with that of training images, by noise level."""
    from elucid.api.evaluations.loss import heldout_loss  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed
    from elucid.training.sampling.options import SampleOptions

    try:
        how = {"sigmas": sigmas, "num": num, "seed": seed, "dest": dest, "batch": batch, "device": device}
        result = heldout_loss(network, data, test, options=SampleOptions(**options), **how)
        distributed.print0(result.text())
        distributed.print0(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
    finally:
        distributed.shutdown()
