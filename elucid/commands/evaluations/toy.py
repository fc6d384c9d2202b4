"""`evaluate.py toy --loss=mine.py:MyLoss`: try a loss, sampler or guidance on a known density, in about a minute."""

import json

import click

from elucid.commands.command import Chain, Command, Name, section
from elucid.dnnlib import cli

DENSITIES = ("tree", "moons", "spiral", "ring")
GUIDANCES = ("none", "cfg", "interval", "autoguidance")

_count, _above_zero = cli.Count(), cli.FloatRange(min=0, min_open=True)


class Kinds(click.ParamType):
    """Kinds of guidance, comma-separated, or `all`."""

    name = "list"

    def convert(self, value, param, ctx):
        kinds = list(GUIDANCES) if value == "all" else str(value).split(",")
        wrong = next((kind for kind in kinds if kind not in GUIDANCES), None)
        if wrong is not None:
            self.fail(f"{wrong!r} is unknown; choose from {', '.join(GUIDANCES)}, all", param, ctx)
        return kinds


@click.command(
    "toy",
    cls=Command,
    examples=[
        "evaluate.py toy --loss=mine.py:MyLoss --dest=toy.json",
        "evaluate.py toy --density=tree --guidance=all --cfg=3 --dest=tree.json",
    ],
)
@section(
    "Points",
    click.option("--density", type=click.Choice(DENSITIES), default="tree", help="The point set.  [default: tree]"),
    click.option("--class", "label", type=cli.Count(min=0), help="Train with classes and sample this one."),
    click.option(
        "--label_dropout",
        type=cli.FloatRange(0, 1),
        default=0.2,
        help="With classes: probability that a point has none.  [default: 0.2]",
    ),
)
@section(
    "Model",
    click.option(
        "--arch", type=Name("network"), default="points", help="Network, e.g. points_mlp.  [default: points, an MLP]"
    ),
    click.option("--precond", type=Name("preconditioner", also=("cdm",)), default="edm", help="[default: edm]"),
    click.option("--loss", type=Chain("loss"), help="Loss, or file.py:Name.  [default: the preconditioner's]"),
    click.option("--lr", type=_above_zero, help="Learning rate.  [default: 0.01, falling]"),
    click.option("--train_steps", type=_count, default=4096, help="Training steps.  [default: 4096]"),
    click.option("--batch", type=_count, default=1024, help="Points per step.  [default: 1024]"),
    click.option("--seed", type=cli.Count(min=0), default=0, help="Random seed.  [default: 0]"),
)
@section(
    "Sampling",
    click.option("--sampler", type=Name("sampler"), default="edm", help="[default: edm]"),
    click.option("--steps", type=_count, default=32, help="Sampling steps.  [default: 32]"),
    click.option("--num", "--num-points", "num", type=cli.Count(min=100), default=4000, help="[default: 4000]"),
    click.option(
        "--guidance", type=Kinds(), default="none", metavar="LIST", help=f"Of {', '.join(GUIDANCES)}, or all."
    ),
    click.option("--cfg", type=float, default=3.0, help="Scale of guidance.  [default: 3]"),
    click.option("--guidance_interval", type=cli.NumberList(float), metavar="LO,HI", help="Of the kind interval."),
)
@section(
    "Other",
    click.option("--set", "set", multiple=True, metavar="PART.OPTION=VALUE", help="Any other option; may be repeated."),
    click.option("--dest", metavar="JSON", help="File for the result; the picture is written beside it."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
)
def command(density, as_json, **options) -> None:
    """Train and sample a model of points in the plane whose density is known, and compare with the truth.

    Any loss, preconditioner, network, sampler and guidance: the place to try a new one first.
    """
    from elucid.api.evaluations.toy import toy  # imported late: --help and usage errors need no torch

    result = toy(density, **options)
    click.echo(result.text())
    click.echo(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
