"""`evaluate.py ensemble --samples=samples --truth=truth.zip --members=8`: error, spread, CRPS, ranks, coverage."""

import json

import click

from elucid.commands.command import Command, section
from elucid.dnnlib import cli


@click.command(
    "ensemble",
    cls=Command,
    examples=["evaluate.py ensemble --samples=samples/ --truth=test.zip --members=16 --dest=ensemble.json"],
)
@section(
    "Samples",
    click.option(
        "--samples", metavar="DIR|ZIP|NPZ", required=True, help="Samples, --members consecutive ones per condition."
    ),
    click.option("--truth", metavar="DIR|ZIP|NPZ", required=True, help="The truth of each condition, in order."),
    click.option("--members", type=cli.Count(), required=True, help="Samples of each condition."),
    click.option(
        "--num", "--num-images", "num", type=cli.Count(), help="First ones of --truth to use.  [default: all]"
    ),
    click.option("--channels", metavar="LIST", help="Names or numbers from 0, comma-separated.  [default: all]"),
)
@section(
    "Result",
    click.option("--seed", type=cli.Count(min=0), default=0, help="Seed of ties and of resampling.  [default: 0]"),
    click.option("--dest", metavar="JSON", help="File for the result; its chart is written beside it."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
    click.option("--workers", type=cli.Count(), metavar="INT", help="Reading threads.  [default: one per core]"),
)
def command(samples, truth, as_json, **how) -> None:
    """Compare ensembles of samples with the truth of their conditions: is the spread right, and the error small?

    Per channel in the data's own units: RMSE of the mean, spread, CRPS, energy score, ranks, coverage of intervals.
    """
    from elucid.api.evaluations.arrays.ensemble import ensemble  # imported late: --help needs no torch

    result = ensemble(samples, truth, **how)
    click.echo(result.text())
    click.echo(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
