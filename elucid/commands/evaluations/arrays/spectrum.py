"""`evaluate.py spectrum --images=samples --data=train.zip -o spectrum.svg`: power at each scale, channels together."""

import json

import click

from elucid.commands.command import Command, section
from elucid.dnnlib import cli
from elucid.evaluation.spectrum.names import WINDOWS


@click.command(
    "spectrum",
    cls=Command,
    examples=["evaluate.py spectrum --images=samples/ --data=train.zip -o spectrum.svg"],
)
@section(
    "Images",
    click.option("--images", metavar="DIR|ZIP|NPZ", required=True, help="Samples."),
    click.option("--data", metavar="DIR|ZIP|NPZ", required=True, help="Real images or arrays, of the same size."),
    click.option("--num", "--num-images", "num", type=cli.Count(min=2), help="Images of each.  [default: all]"),
    click.option("--seed", type=cli.Count(min=0), default=0, help="Seed of the choice of --num images.  [default: 0]"),
    click.option("--channels", metavar="LIST", help="Names or numbers from 0, comma-separated.  [default: all]"),
)
@section(
    "Spectrum",
    click.option(
        "--window", type=click.Choice(WINDOWS), default="hann", help="none: for periodic fields.  [default: hann]"
    ),
    click.option("-o", "--plot", metavar="SVG", help="File for the charts."),
    click.option("--dest", metavar="JSON", help="File for the result; its charts are written beside it."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
    click.option("--workers", type=cli.Count(), metavar="INT", help="Reading threads.  [default: one per core]"),
)
def command(images, data, as_json, **how) -> None:
    """Compare the power spectra of samples with those of data, and the correlation and coherence of their channels.

    The number is the distance of the log spectra over all channels, in decibels, beyond what few images make of it.
    """
    from elucid.api.evaluations.arrays.spectrum import spectrum  # imported late: --help needs no torch

    result = spectrum(images, data, **how)
    click.echo(result.text())
    click.echo(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
