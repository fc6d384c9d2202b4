"""The console command: `elucid train|generate|fid|evaluate|export|data`."""

import importlib

import click

from elucid.commands.command import Group, version_option
from elucid.commands.processes import processes
from elucid.dnnlib import cli

COMMANDS = {
    "train": ("elucid.commands.train", "Train a diffusion model (train.py)."),
    "generate": ("elucid.commands.generate", "Sample images from a snapshot (generate.py)."),
    "fid": ("elucid.commands.fid", "Evaluate images: calc, ref, svc (fid.py)."),
    "evaluate": (
        "elucid.commands.evaluate",
        "Evaluate models and runs: compare, report, watch, cas, ... (evaluate.py).",
    ),
    "export": ("elucid.commands.export", "Convert snapshots to files of other programs and back (export.py)."),
    "data": ("elucid.commands.dataset_tool", "Prepare, verify or encode a dataset (dataset_tool.py)."),
}
"""Module and description of each command; only the one that is called is imported."""


class _Commands(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return importlib.import_module(COMMANDS[name][0]).main if name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    examples=[
        "elucid train --outdir=runs --data=images.zip --preset=demo",
        "elucid generate --network=runs/00000-NAME --outdir=out --seeds=0-63",
    ],
)
@version_option
def main() -> None:
    """Train diffusion models, sample from them, evaluate samples, prepare datasets."""


def run() -> None:
    """Run the command line and exit."""
    cli.run(main, peers=processes())
