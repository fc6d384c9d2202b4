"""`evaluate.py svc --data=train.zip --images=samples/`: class agreement by a support vector classifier."""

import json

import click

from elucid.commands.command import Command, section
from elucid.dnnlib import cli


class _Gamma(cli.FloatRange):
    """A number above 0, or `scale`."""

    def convert(self, value, param, ctx):
        return value if value == "scale" else super().convert(value, param, ctx)


@click.command(
    "svc",
    cls=Command,
    examples=["evaluate.py svc --data=digits.zip --test=digits-test.zip --images=samples/ --dest=svc.json"],
)
@section(
    "Images",
    click.option("--data", metavar="DIR|ZIP", required=True, help="Real labelled images to train on."),
    click.option("--test", metavar="DIR|ZIP", help="Held-out real labelled images, to test the classifier."),
    click.option("--images", metavar="DIR|ZIP", required=True, help="Samples with dataset.json: generate.py --labels."),
)
@section(
    "Classifier",
    click.option("--C", "C", type=cli.FloatRange(min=0, min_open=True), default=10.0, help="Penalty.  [default: 10]"),
    click.option(
        "--gamma",
        type=_Gamma(min=0, min_open=True),
        default="scale",
        metavar="NUMBER|scale",
        help="Of the kernel exp(-gamma |x - y|^2) of pixels in [0, 1].  [default: scale]",
    ),
    click.option("--grid", is_flag=True, help="Choose C and gamma by cross-validation on --data."),
)
@section(
    "Result",
    click.option("--dest", metavar="JSON", help="File for the result."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
)
def command(data, test, images, as_json, **how) -> None:
    """Compute the percentage of samples that a support vector classifier assigns to their class.

    It is trained on the pixels of at most 5000 real images, which is suitable for digits but not for photographs.
    """
    from elucid.api.evaluations.agreement import svc  # imported late: --help and usage errors need no scikit-learn

    result = svc(data, images, test, **how)
    click.echo(result.text())
    click.echo(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
