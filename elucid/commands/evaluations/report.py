"""`evaluate.py report RUN... -o report.html`: a page about training runs."""

import click

from elucid.commands.command import Command, section
from elucid.dnnlib import cli


@click.command("report", cls=Command)
@section("Runs", click.argument("runs", metavar="RUN...", nargs=-1))
@section(
    "Page",
    click.option("-o", "--dest", metavar="HTML", required=True, help="File to write."),
    click.option("--names", metavar="LIST", help="Names of the runs, comma-separated.  [default: of their folders]"),
    click.option("--grids", type=cli.Count(), default=24, help="Sample grids of each run over time.  [default: 24]"),
    click.option(
        "--results", metavar="JSON", multiple=True, help="Result of evaluate.py, besides those in RUN/evaluations."
    ),
)
@section(
    "Real and synthetic",
    click.option(
        "--per_class", type=cli.Count(min=0), default=4, help="Images of each class, up to 8; 0: none.  [default: 4]"
    ),
    click.option(
        "--samples", metavar="DIR", multiple=True, help="Samples of generate.py --labels, one folder for each run."
    ),
    click.option("--no-sampling", is_flag=True, help="Draw no samples from the newest snapshots."),
    click.option("--plugins", metavar="LIST", help="Your modules or files that the snapshots may use."),
    click.option("--batch", type=cli.Count(), default=64, help="Batch size of sampling.  [default: 64]"),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
)
def command(runs, dest, names, no_sampling, **how) -> None:
    """Write a page about one run or several: curves, samples over time, results, settings. It needs no other file."""
    from elucid.api.evaluations.report import report  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed

    chosen = None if names is None else [name.strip() for name in names.split(",")]
    try:
        distributed.print0(report(runs, dest, names=chosen, sampling=not no_sampling, **how))
    finally:
        distributed.shutdown()
