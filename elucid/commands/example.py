"""Minimal sampling example: load a snapshot and write an 8x8 grid of images.

python example.py --model_path=network-snapshot-000200.pkl --output_path=grid.png --steps=18
"""

import click

from elucid.commands.command import Command, section, version_option
from elucid.dnnlib import cli
from elucid.dnnlib.files import require_writable


@click.command(cls=Command, examples=["example.py --model_path=runs/00000-NAME --output_path=grid.png --steps=18"])
@section(
    "Flags",
    click.option(
        "--model_path",
        required=True,
        metavar="PKL|DIR|URL",
        help="Snapshot or run of train.py, or a public checkpoint.",
    ),
    click.option("--output_path", default="grid.png", metavar="PNG", help="Image to write.  [default: grid.png]"),
    click.option(
        "--steps", "--num_steps", "steps", type=cli.Count(), default=18, help="Sampling steps.  [default: 18]"
    ),
    click.option("--adm_preset", metavar="NAME", help="Options of a guided-diffusion state dict."),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
    version_option,
)
def main(model_path, output_path, steps, adm_preset, device):
    """Generate 64 images from a snapshot."""
    import elucid  # imported late: --help and usage errors need no torch

    require_writable(output_path)
    adm = {"adm_preset": adm_preset} if adm_preset else None
    model = elucid.load(model_path, device=device, adm=adm)  # runs no code from the file
    images = model.sample(seeds=range(64), sampler="edm", steps=steps)
    elucid.save_grid(images, output_path, columns=8, pixel_for_pixel=True)
    click.echo(output_path)


def run() -> None:
    """Run the command line and exit."""
    cli.run(main)
