"""Evaluate models: `evaluate.py nll --network=RUN --data=images.zip`."""

import click

from elucid.commands.command import Group, version_option
from elucid.commands.evaluations import cas, compare, loss, memorisation, nll, report, svc, sweep, toy, watch
from elucid.commands.evaluations.arrays import ensemble, restoration, spectrum
from elucid.commands.processes import processes
from elucid.dnnlib import cli


@click.group(
    cls=Group,
    no_args_is_help=False,
    examples=[
        "evaluate.py nll --network=runs/00000-NAME --data=test.zip",
        "evaluate.py report runs/00000-NAME runs/00001-NAME -o report.html",
        "torchrun --standalone --nproc_per_node=8 evaluate.py nll --network=RUN --data=test.zip",
    ],
)
@version_option
def main() -> None:
    """Evaluate trained models. The last line of stdout is the number alone; notes go to stderr."""


for module in (cas, compare, ensemble, loss, memorisation, nll, report, restoration, spectrum, svc, sweep, toy, watch):
    main.add_command(module.command)


def run() -> None:
    """Run the command line and exit."""
    cli.run(main, peers=processes())
