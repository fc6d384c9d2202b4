"""Make a data set of any folder, archive or well-known file, verify one, or look after those kept decoded.

python dataset_tool.py --source=photos/ --dest=photos.zip --resolution=64x64 --transform=center-crop
python dataset_tool.py verify --source=photos.zip
python dataset_tool.py encode --source=photos.zip --dest=photos-latents.zip
python dataset_tool.py cache --clear
"""

import click

from elucid.commands.command import Group, section, version_option
from elucid.dnnlib import cli
from elucid.preparation.convert import convert
from elucid.preparation.transforms import TRANSFORMS
from elucid.preparation.verify import verify
from elucid.training.data import cache_entries
from elucid.training.data.npy import DTYPES

_workers = click.option("--workers", type=cli.Count(), metavar="INT", help="Processes.  [default: one per core]")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace a --dest that is there.")

FILES = section(
    "Files",
    click.option(
        "--source",
        metavar="PATH",
        help="Folder, .zip, archive.zip/folder, *_lmdb, idx file, cifar-10-python.tar.gz[/test], "
        "or builtin:digits[-train|-test].  [required]",
    ),
    click.option("--dest", metavar="PATH", help="The .zip or new folder to write.  [required]"),
    _overwrite,
)
PICTURES = section(
    "Pictures",
    click.option("--resolution", type=cli.Size(), metavar="WxH", help="Size of the images; sides divisible by 8."),
    click.option("--transform", type=click.Choice(list(TRANSFORMS)), help="Crop before resizing."),
    click.option(
        "--channels",
        type=click.Choice(["auto", "rgb", "gray"]),
        default="auto",
        help="auto: gray if the whole source is.  [default: auto]",
    ),
    click.option("--background", default="white", help="Colour behind transparent pixels.  [default: white]"),
    click.option("--max-images", type=cli.Count(), metavar="INT", help="Take only the first so many."),
    click.option(
        "--unlabelled",
        type=click.Choice(["keep", "drop"]),
        default="keep",
        help="Images without a label, where others have one.  [default: keep]",
    ),
    _workers,
    version_option,
)


@click.group(
    cls=Group,
    invoke_without_command=True,
    examples=[
        "dataset_tool.py --source=photos/ --dest=photos.zip --resolution=64x64 --transform=center-crop",
        "dataset_tool.py verify --source=photos.zip",
    ],
)
@FILES
@PICTURES
@click.pass_context
def main(context: click.Context, source: str | None, dest: str | None, **options) -> None:
    """Convert pictures into a data set for training: uncompressed PNGs of one size and dataset.json.

    Labels come from the source's dataset.json or from its top-level folders, one per class.
    """
    if context.invoked_subcommand is not None:
        return
    for name, value in (("--source", source), ("--dest", dest)):
        if value is None:
            raise click.UsageError(f"{name} is missing; see --help")
    for line in convert(source, dest, **options).lines():
        click.echo(line)


@main.command("verify")
@click.option("--source", metavar="PATH", required=True, help="Data set: .zip or folder.")
@click.option("--workers", type=cli.Count(), metavar="INT", help="Threads.  [default: one per core]")
def verify_command(source: str, workers: int | None) -> None:
    """Check every image and label; print size, channels, classes, mean and standard deviation, and proposed noise."""
    for line in verify(source, workers).lines():
        click.echo(line)


@main.command("encode")
@click.option("--source", metavar="PATH", required=True, help="Data set of images: .zip or folder, as made above.")
@click.option("--dest", metavar="PATH", required=True, help="The .zip or new folder to write.")
@_overwrite
@click.option(
    "--model",
    metavar="NAME|PATH",
    help="diffusers AutoencoderKL: hub name, folder or file.  [default: stabilityai/sd-vae-ft-ema]",
)
@click.option(
    "--scale",
    type=cli.FloatRange(min=0, min_open=True),
    help="Factor of the latents.  [default: the VAE's, 0.18215 for Stable Diffusion's]",
)
@click.option("--batch", type=cli.Count(), default=8, help="Images per pass.  [default: 8]")
@click.option(
    "--dtype", type=click.Choice(DTYPES), default=DTYPES[0], help=f"Type of the stored numbers.  [default: {DTYPES[0]}]"
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1  [default: cuda if there is one, else cpu]")
@click.option("--workers", type=cli.Count(), metavar="INT", help="Decoding threads.  [default: one per core]")
def encode_command(source: str, dest: str, **options) -> None:
    """Store the latents of a data set once, for train.py --train_on_latents=1.

    Stored are each image's mean and standard deviation; training samples them anew at every use.
    """
    from elucid.preparation.encode import encode  # here, because it brings torch, which the other commands do without

    for line in encode(source, dest, **options).lines():
        click.echo(line)


@main.command("cache")
@click.option("--clear", is_flag=True, help="Remove those that no process uses.")
def cache_command(clear: bool) -> None:
    """List the data sets that train.py keeps decoded: name, size, last use.

    They lie in ELUCID_CACHE (~/.cache/elucid), and take at most ELUCID_CACHE_GB (50): those unused for the longest time
    go first.
    """
    folder = cache_entries.datasets_folder()
    if clear:
        removed = cache_entries.clear(folder)
        click.echo(f"removed: {len(removed)} data sets, {sum(entry.size for entry in removed) / 1e9:.2f} GB")
    for line in cache_entries.listing(folder):
        click.echo(line)


def run() -> None:
    """The whole program; ends the process."""
    cli.run(main)
