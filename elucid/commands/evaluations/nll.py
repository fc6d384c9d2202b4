"""`evaluate.py nll --network=RUN --data=images.zip`: bits per dimension."""

import json

import click

from elucid.commands.command import Command, section
from elucid.commands.flags.model import model_flags
from elucid.dnnlib import cli
from elucid.dnnlib.files import require_writable
from elucid.training.noise.choices import VARIANCES


@click.command("nll", cls=Command)
@model_flags()
@section(
    "Bound",
    click.option("--respacing", metavar="TEXT", help="Steps of the process, e.g. 250.  [default: all]"),
    click.option("--variance", type=click.Choice(VARIANCES), help="Variance of a step.  [default: the model's]"),
    click.option("--clip", type=bool, help="Clip the predicted image.  [default: as when sampling]"),
)
@section(
    "Images",
    click.option("--data", metavar="DIR|ZIP", required=True, help="Images, with labels for a model with classes."),
    click.option(
        "--num",
        "--num-images",
        "num",
        type=cli.Count(),
        help="Number of images, chosen by --seed (under torchrun: --num-images).  [default: all]",
    ),
    click.option("--seed", type=cli.Count(min=0), default=0, help="Seed of the noise and the choice.  [default: 0]"),
    click.option("--dest", metavar="JSON", help="File for the result, with its curve."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all terms as the last line."),
)
@section(
    "Work",
    click.option("--batch", type=cli.Count(), default=64, help="Batch size per process.  [default: 64]"),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
)
def command(network, data, num, seed, respacing, dest, as_json, batch, device, **options) -> None:
    """Compute bits per dimension: the variational bound on the negative log-likelihood of images, and its terms."""
    from elucid.api.evaluations.likelihood import nll  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed
    from elucid.training.sampling.options import SampleOptions

    try:
        if dest is not None and distributed.is_main():
            require_writable(dest)
        how = {"num": num, "seed": seed, "respacing": respacing, "batch": batch, "device": device}
        result = nll(network, data, options=SampleOptions(**options), **how)
        if dest is not None and distributed.is_main():
            result.result().save(dest)
        low, high = result.interval
        distributed.print0(result.table())
        distributed.print0(f"bits per dimension of {result.num_images} images (95 % interval {low:.4f} to {high:.4f})")
        distributed.print0(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
    finally:
        distributed.shutdown()
