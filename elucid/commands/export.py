"""Convert snapshots to files of other programs and back: `python export.py safetensors RUN --dest=FOLDER`."""

import click

from elucid.commands.command import Command, Group, section, version_option
from elucid.commands.processes import processes
from elucid.dnnlib import cli

STEPS = 4
"""Lengths of a range."""


class Lengths(cli.NumberList):
    """A list of numbers, or a range LOW:HIGH of `STEPS` numbers at equal distances."""

    def __init__(self):
        super().__init__(float)

    def convert(self, value, param, ctx):
        low, colon, high = str(value).partition(":")
        if not colon:
            return super().convert(value, param, ctx)
        [first], [last] = (super(Lengths, self).convert(end, param, ctx) for end in (low, high))
        if not first < last:
            self.fail(f"{value!r} is no range; write the smaller number first, e.g. 0.05:0.20", param, ctx)
        return [round(first + (last - first) * step / (STEPS - 1), 9) for step in range(STEPS)]


_network = click.argument("network", metavar="PKL|DIR|URL")


def _options(dest: str, text: str):
    return section(
        "Files",
        click.option("--dest", metavar=dest, required=True, help=text),
        click.option(
            "--ema", metavar="NAME", help="Only this average.  [default: all; state-dict and diffusers: the first]"
        ),
        click.option("--plugins", metavar="LIST", help="Your modules or files that the snapshot may use."),
    )


@click.group(
    cls=Group,
    no_args_is_help=False,
    examples=[
        "export.py safetensors runs/00000-NAME --dest=model",
        "export.py snapshot model --dest=network-snapshot.pkl",
    ],
)
@version_option
def main() -> None:
    """Convert snapshots to files of other programs and back. Any model that generate.py reads can be given."""


@main.command(cls=Command)
@_network
@_options("DIR", "Folder to write.")
@section(
    "Publish",
    click.option("--license", metavar="NAME", help="SPDX name of the weights' licence, for the model card."),
    click.option("--push-to-hub", metavar="USER/NAME", help="Also upload the folder to the Hugging Face hub."),
    click.option("--private", is_flag=True, help="Create the repository as private."),
)
def safetensors(network, plugins, **options) -> None:
    """Write config.json, *.safetensors and a model card. --network=DIR reads them."""
    from elucid.api.export import to_folder  # imported late: --help and usage errors need no torch

    click.echo(to_folder(network, plugins=listed(plugins), **options))


@main.command(cls=Command)
@_network
@_options("PKL", "Snapshot to write.")
def snapshot(network, plugins, **options) -> None:
    """Write a snapshot file, from a folder of safetensors or any other model."""
    from elucid.api.export import to_snapshot

    click.echo(to_snapshot(network, plugins=listed(plugins), **options))


@main.command("state-dict", cls=Command)
@_network
@_options("PT", "File to write.")
def state_dict(network, plugins, **options) -> None:
    """Write the network's weights for torch.load(FILE, weights_only=True)."""
    from elucid.api.export import to_state_dict

    click.echo(to_state_dict(network, plugins=listed(plugins), **options))


@main.command(cls=Command)
@_network
@_options("DIR", "Folder to write.")
def diffusers(network, plugins, **options) -> None:
    """Write a folder that diffusers reads. The model has --arch=adm_unet --precond=ddpm."""
    from elucid.api.export import to_diffusers

    click.echo(to_diffusers(network, plugins=listed(plugins), **options))


@main.command(
    cls=Command,
    examples=["export.py ema runs/00000-NAME --std=0.05:0.20 --dest=averages.pkl"],
)
@click.argument("run", metavar="DIR")
@section(
    "Averages",
    click.option(
        "--std",
        type=Lengths(),
        metavar="LIST|LOW:HIGH",
        help=f"Relative lengths of power functions: 0.1,0.15 or {STEPS} from 0.05:0.20.",
    ),
    click.option("--halflife", type=cli.NumberList(float), metavar="MIMG", help="Half-lives, millions of images."),
    click.option("--at", type=cli.FloatRange(min=0, min_open=True), metavar="KIMG", help="As of this time."),
)
@section(
    "Files",
    click.option("--dest", metavar="PKL|DIR", required=True, help="Snapshot, or folder of safetensors, to write."),
    click.option("--plugins", metavar="LIST", help="Your modules or files that the snapshots may use."),
)
def ema(run, dest, std, halflife, plugins, **options) -> None:
    """Reconstruct averages of any length from a run's snapshots, and say how well these determine each."""
    from elucid.api.averages import export_averages
    from elucid.training.snapshots.reconstruct import length_lines

    lengths = {"std": std or (), "halflife": halflife or ()}
    found = export_averages(run, dest, plugins=listed(plugins), **lengths, **options)
    click.echo("\n".join([*length_lines(found), str(dest)]))


def listed(plugins: str | None) -> list[str]:
    return [name for name in (plugins or "").split(",") if name]


def run() -> None:
    """Run the command line and exit."""
    cli.run(main, peers=processes())
