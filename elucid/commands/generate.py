"""Sample images from a snapshot: `python generate.py --network=SNAPSHOT --outdir=out --seeds=0-63`."""

import click

from elucid.commands.command import Command, section, version_option
from elucid.commands.flags.sampling import require_network, sample_options, sampling_flags
from elucid.commands.processes import processes
from elucid.dnnlib import cli

OUTPUT = section(
    "Output",
    click.option("--outdir", metavar="DIR", required=True, help="Folder for the images."),
    click.option(
        "--seeds",
        type=cli.IntRange(),
        metavar="LIST",
        help="Random seeds, e.g. 1,2,5-10; with --per_class the first.  [default: 0-63]",
    ),
    click.option(
        "--invert",
        metavar="DIR|ZIP",
        help="Instead of sampling seeds, find the noise of these images by DDIM inversion and generate them again.",
    ),
    click.option("--subdirs", is_flag=True, help="Use one folder per 1000 seeds."),
    click.option("--labels", is_flag=True, help="Write the class of each image to OUTDIR/dataset.json."),
    click.option("--per_class", type=cli.Count(), metavar="N", help="N images of each class; of class c seeds cN, ..."),
    click.option("--class_dirs", is_flag=True, help="Use one folder per class; implies --labels."),
    click.option("--overwrite", is_flag=True, help="Regenerate existing images, which are skipped by default."),
    click.option("--grid", metavar="PNG", help="Also write a grid of the first images, at most 1024."),
    click.option("--grid_classes", is_flag=True, help="Use one row of the grid per class."),
)
ARRAYS = section(
    "Arrays",
    click.option(
        "--format",
        type=click.Choice(["png", "npy"]),
        help="Files of arrays in the data's units, or pictures.  [default: npy for arrays]",
    ),
    click.option("--npz", metavar="NPZ", help="Also write all samples to one file."),
    click.option(
        "--summary", metavar="NPZ", help="Write mean, deviation and 90 % interval of the --members of each condition."
    ),
    click.option(
        "--colormap", metavar="NAME", help="gray, heat, balance or matplotlib's, of pictures.  [default: gray]"
    ),
    click.option(
        "--channels", type=cli.IntRange(), metavar="LIST", help="Channels in pictures.  [default: the first 8]"
    ),
)
SPEED = section(
    "Speed",
    click.option(
        "--batch", type=cli.Count(), default=64, help="Batch size on a GPU; does not affect the images.  [default: 64]"
    ),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
    version_option,
)

OUTPUT_FLAGS = (
    *("subdirs", "labels", "per_class", "class_dirs", "overwrite", "grid", "grid_classes"),
    *("batch", "device"),
)
"""Flags that are arguments of `elucid.generate`; all others are fields of `SampleOptions`."""


@click.command(
    cls=Command,
    examples=[
        "generate.py --network=runs/00000-NAME --outdir=out --seeds=0-63",
        "torchrun --standalone --nproc_per_node=8 generate.py --network=RUN --outdir=out --seeds=0-49999",
    ],
)
@sampling_flags()
@OUTPUT
@ARRAYS
@SPEED
@click.pass_context
def main(ctx, network, outdir, seeds, invert, **flags):
    """Sample images from a snapshot, one file per seed, in one process or under torchrun."""
    require_network(ctx, network, flags["preset"])
    output = {name: flags.pop(name) for name in OUTPUT_FLAGS}
    choices = {name: flags.pop(name) for name in ("format", "npz", "summary", "colormap", "channels")}
    options = sample_options(flags)
    if invert is not None:
        return invert_images(network, invert, outdir, options, output["batch"], output["device"])
    from elucid.api.generate import generate  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed
    from elucid.training.sampling.output.choices import OutputChoices

    try:
        generate(network, outdir, seeds, options, **output, output=OutputChoices(**choices))
    finally:
        distributed.shutdown()


def invert_images(network, images, outdir, options, batch, device) -> None:
    """Invert images and print how close they come back."""
    from elucid.api.invert import invert

    result = invert(network, images, outdir, options, batch=batch, device=device)
    click.echo(
        f"{result.folder}: {result.num_images} images inverted and generated again, root mean square error "
        f"{result.error:.4g} of a range of 2; standard deviation of the noise {result.deviation:.4g}"
    )


def run() -> None:
    """Run the command line and exit."""
    cli.run(main, peers=processes())
