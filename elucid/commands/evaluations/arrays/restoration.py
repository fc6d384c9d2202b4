"""`evaluate.py restoration --images=restored --truth=truth.zip`: PSNR and SSIM against the truth."""

import json

import click

from elucid.commands.command import Command, section
from elucid.dnnlib import cli


@click.command(
    "restoration",
    cls=Command,
    examples=["evaluate.py restoration --images=restored/ --truth=test.zip --dest=restoration.json"],
)
@section(
    "Images",
    click.option(
        "--images", metavar="DIR|ZIP|NPZ", required=True, help="Restored images, --members consecutive ones per truth."
    ),
    click.option("--truth", metavar="DIR|ZIP|NPZ", required=True, help="The true images, in order."),
    click.option("--members", type=cli.Count(), default=1, help="Restored images of each true one.  [default: 1]"),
    click.option(
        "--num", "--num-images", "num", type=cli.Count(), help="First ones of --truth to use.  [default: all]"
    ),
    click.option("--channels", metavar="LIST", help="Names or numbers from 0, comma-separated.  [default: all]"),
)
@section(
    "Measures",
    click.option(
        "--data_range",
        type=cli.NumberList(float),
        metavar="LIST",
        help="Largest minus smallest value, one for all channels or for each.  [default: of integers their type's]",
    ),
    click.option("--ssim", type=click.BOOL, metavar="0|1", default=True, help="SSIM besides PSNR.  [default: 1]"),
)
@section(
    "Result",
    click.option("--seed", type=cli.Count(min=0), default=0, help="Seed of resampling.  [default: 0]"),
    click.option("--per_image", metavar="CSV", help="File for the values of each image."),
    click.option("--dest", metavar="JSON", help="File for the result."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
    click.option("--workers", type=cli.Count(), metavar="INT", help="Reading threads.  [default: one per core]"),
)
def command(images, truth, as_json, **how) -> None:
    """Compare restored images with the truth: PSNR and SSIM of each, and on average; of several members their mean."""
    from elucid.api.evaluations.arrays.restoration import restoration  # imported late: --help needs no torch

    result = restoration(images, truth, **how)
    click.echo(result.text())
    click.echo(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
