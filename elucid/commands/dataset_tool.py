"""Convert a folder, archive or well-known dataset; verify or encode a dataset; manage the cache.

python dataset_tool.py --source=photos/ --dest=photos.zip --resolution=64x64 --transform=center-crop
python dataset_tool.py verify --source=photos.zip
python dataset_tool.py encode --source=photos.zip --dest=photos-latents.zip
python dataset_tool.py cache --clear
"""

import click

from elucid.commands.command import Group, section, version_option
from elucid.dnnlib import cli
from elucid.dnnlib.errors import clean_lines
from elucid.preparation.convert import convert
from elucid.preparation.fields.convert import ArrayOptions, convert_arrays
from elucid.preparation.fields.sources import is_array_source
from elucid.preparation.transforms import TRANSFORMS
from elucid.preparation.verify import verify
from elucid.training.data import cache_entries
from elucid.training.data.arrays.form import DTYPES
from elucid.training.data.npy import DTYPES as LATENT_DTYPES

_workers = click.option("--workers", type=cli.Count(), metavar="INT", help="Processes.  [default: one per core]")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace an existing --dest.")

FILES = section(
    "Files",
    click.option(
        "--source",
        metavar="PATH",
        help="Folder, .zip, archive.zip/folder, *_lmdb, idx file or folder of them, cifar-10-python.tar.gz[/test], "
        "builtin:digits[-train|-test]; arrays: .npy, .npz, .h5[/name], .zarr[/name], folder or .zip of .npy, .npz or "
        ".tif.  [required]",
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
    click.option("--max-images", type=cli.Count(), metavar="INT", help="Convert only the first INT images."),
    click.option(
        "--unlabelled",
        type=click.Choice(["keep", "drop"]),
        default="keep",
        help="What to do with images without a label, if others have one.  [default: keep]",
    ),
    _workers,
)
ARRAYS = section(
    "Arrays",
    click.option("--axes", metavar="LETTERS", help="Axes of the source, as NHWC or NCW.  [default: NCHW, NHW]"),
    click.option("--array-channels", type=cli.IntRange(), metavar="LIST", help="Keep these channels, as 0,3-5."),
    click.option("--dtype", type=click.Choice(DTYPES), help="Type of the files.  [default: the source's]"),
    click.option(
        "--missing",
        metavar="WHAT",
        help="NaN and infinities: refuse, drop such samples, mean of the channel, or a number.  [default: refuse]",
    ),
    click.option(
        "--normalise",
        type=click.Choice(["std", "robust"]),
        help="Mean and deviation of each channel, or median and 1.4826 MAD.  [default: std]",
    ),
    click.option("--mean", type=cli.NumberList(float), metavar="LIST", help="Normalise by these, one a channel."),
    click.option("--std", type=cli.NumberList(float), metavar="LIST", help="And by these."),
    click.option("--channel-names", metavar="LIST", help="Names of the channels, as u10,v10,t2m."),
    click.option("--units", metavar="LIST", help="Units of the channels, as m/s,m/s,K."),
    version_option,
)
ARRAY_FLAGS = ("axes", "array_channels", "dtype", "missing", "normalise", "mean", "std", "channel_names", "units")
PICTURE_FLAGS = ("resolution", "transform", "channels", "background", "unlabelled")


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
@ARRAYS
@click.pass_context
def main(context: click.Context, source: str | None, dest: str | None, **options) -> None:
    """Convert images to a dataset for training: uncompressed PNGs of one size and dataset.json.

    Arrays become .npy files, and dataset.json has mean and deviation of each channel.

    Labels come from the source's dataset.json or from its top-level folders, one per class.
    """
    if context.invoked_subcommand is None:
        convert_images(source, dest, options)


def convert_images(source: str | None, dest: str | None, options: dict) -> None:
    """Convert images or arrays, and print what was done."""
    for name, value in (("--source", source), ("--dest", dest)):
        if value is None:
            raise click.UsageError(f"{name} is missing; see --help")
    own = {name: options.pop(name) for name in ARRAY_FLAGS}
    given = [name for name, value in own.items() if value is not None]
    if is_array_source(source):
        return convert_fields(source, dest, own, options)
    if given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for arrays, and {source} holds none; leave it out")
    for line in convert(source, dest, **options).lines():
        click.echo(clean_lines(line))


def convert_fields(source: str, dest: str, own: dict, options: dict) -> None:
    """Convert arrays, and print what was done."""
    context = click.get_current_context()
    for name in PICTURE_FLAGS:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is for pictures, and {source} holds arrays; leave it out")
    for name in ("channel_names", "units"):
        own[name] = None if own[name] is None else own[name].split(",")
    chosen = ArrayOptions(**{name: value for name, value in own.items() if value is not None})
    rest = {name: options[name] for name in ("max_images", "overwrite")}
    for line in convert_arrays(source, dest, chosen, **rest).lines():
        click.echo(clean_lines(line))


@main.command("convert")
@FILES
@PICTURES
@ARRAYS
def convert_command(source: str | None, dest: str | None, **options) -> None:
    """Convert images to a dataset: the same as without a command, as EDM2 names it."""
    convert_images(source, dest, options)


@main.command("verify")
@click.option("--source", metavar="PATH", required=True, help="Dataset: .zip or folder.")
@click.option("--workers", type=cli.Count(), metavar="INT", help="Threads.  [default: one per core]")
def verify_command(source: str, workers: int | None) -> None:
    """Check all images and labels; print size, channels, classes, mean, standard deviation and suggested noise."""
    for line in verify(source, workers).lines():
        click.echo(clean_lines(line))


@main.command("encode")
@click.option("--source", metavar="PATH", required=True, help="Dataset of images: .zip or folder.")
@click.option("--dest", metavar="PATH", required=True, help="The .zip or new folder to write.")
@_overwrite
@click.option(
    "--encoder",
    type=click.Choice(["vae", "edm2_vae"]),
    default="vae",
    help="edm2_vae: as EDM2 stores latents, of pixels in [0, 1], in float32, without a scale factor.  [default: vae]",
)
@click.option(
    "--model",
    metavar="NAME|PATH",
    help="diffusers AutoencoderKL: hub name, folder or file.  [default: stabilityai/sd-vae-ft-ema, for edm2_vae "
    "stabilityai/sd-vae-ft-mse]",
)
@click.option(
    "--scale",
    type=cli.FloatRange(min=0, min_open=True),
    help="Scale factor of the latents.  [default: the VAE's, 0.18215 for Stable Diffusion]",
)
@click.option("--batch", type=cli.Count(), default=8, help="Images per pass.  [default: 8]")
@click.option(
    "--dtype",
    type=click.Choice(LATENT_DTYPES),
    help="Dtype of stored latents.  [default: float16, for edm2_vae float32]",
)
@click.option(
    "--measure",
    is_flag=True,
    help="Measure mean and deviation of each channel of the latents; train.py then normalises by them.",
)
@click.option(
    "--final-std",
    type=cli.FloatRange(min=0, min_open=True),
    help="Deviation that --measure brings each channel to.  [default: train.py's, 1 for --precond=flow, else 0.5]",
)
@click.option("--max-images", type=cli.Count(), metavar="INT", help="Encode a random part of so many images.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1  [default: cuda if there is one, else cpu]")
@click.option("--workers", type=cli.Count(), metavar="INT", help="Decoding threads.  [default: one per core]")
def encode_command(source: str, dest: str, **options) -> None:
    """Encode a dataset to latents once, for train.py --train_on_latents=1.

    The posterior's mean and standard deviation of each image are stored; training draws a new sample at each use.
    """
    from elucid.preparation.encode import encode  # imports torch, which the other commands do not need

    for line in encode(source, dest, **options).lines():
        click.echo(clean_lines(line))


@main.command("cache")
@click.option("--clear", is_flag=True, help="Remove all that are not in use.")
def cache_command(clear: bool) -> None:
    """List the datasets in train.py's cache: name, size, last use. NAME.index is the index of a large dataset.

    The cache is in ELUCID_CACHE (~/.cache/elucid) and takes at most ELUCID_CACHE_GB (50); the least recently used
    datasets are removed first.
    """
    folder = cache_entries.datasets_folder()
    if clear:
        removed = cache_entries.clear(folder)
        click.echo(f"removed: {len(removed)} datasets, {sum(entry.size for entry in removed) / 1e9:.2f} GB")
    for line in cache_entries.listing(folder):
        click.echo(clean_lines(line))


def run() -> None:
    """Run the command line and exit."""
    cli.run(main)
