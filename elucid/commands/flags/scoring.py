"""Flags of the subcommands that score samples in the features of detectors."""

from collections.abc import Callable

import click

from elucid.commands.command import Name, section
from elucid.dnnlib import cli
from elucid.metrics.measures.names import METRICS, metric_names
from elucid.metrics.names import DETECTORS


class Metrics(click.ParamType):
    """A list of metrics, checked before torch is imported."""

    name = "list"

    def convert(self, value, param, ctx):
        return metric_names(value)


def scoring_flags(dest: str, ref: str = "Reference from fid.py ref, or images.", metrics: str = "fid") -> Callable:
    """Return a decorator that adds --ref, --metrics, --detector, --dest, --json, --batch and --device."""
    score = section(
        "Score",
        click.option("--ref", metavar="NPZ|URL|DIR|ZIP", help=ref),
        click.option(
            "--metrics", type=Metrics(), default=metrics,
            help=f"{', '.join(METRICS)}; the first decides.  [default: {metrics}]",
        ),
        click.option(
            "--detector", type=Name("detector", DETECTORS), help=f"{', '.join(DETECTORS)} or file.py:Name.",
        ),
        click.option("--detector-weights", metavar="FILE|URL", help="Weights to use instead of the public ones."),
        click.option("--dest", metavar="JSON", help=dest),
        click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
    )  # fmt: skip
    work = section(
        "Work",
        click.option("--batch", type=cli.Count(), default=64, help="Batch size per process.  [default: 64]"),
        click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
    )
    return lambda function: score(work(function))
