"""Convert snapshots to files of other programs and back: `python export.py safetensors RUN --dest=FOLDER`."""

import click

from elucid.commands.command import Command, Group, section, version_option
from elucid.commands.processes import processes
from elucid.dnnlib import cli

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


def listed(plugins: str | None) -> list[str]:
    return [name for name in (plugins or "").split(",") if name]


def run() -> None:
    """Run the command line and exit."""
    cli.run(main, peers=processes())
