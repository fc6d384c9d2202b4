"""Sample images from a snapshot: `python generate.py --network=SNAPSHOT --outdir=out --seeds=0-63`."""

from contextlib import closing
from pathlib import Path

import click
import torch

from elucid.commands.sampling_flags import sampling_options
from elucid.dnnlib import cli
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed
from elucid.torch_utils.torchrun_errors import Peers
from elucid.training.sampling.folder import SampleFolder, digest
from elucid.training.sampling.grid import save_grid
from elucid.training.sampling.pipeline import prepare

MOST_IN_GRID = 1024


# fmt: off
@click.command(context_settings={"show_default": True, "max_content_width": 120})
@click.option("--network", metavar="PKL|URL", required=True, help="Snapshot, or a published EDM-family checkpoint.")
@click.option("--outdir", metavar="DIR", required=True, help="Where the images go.")
@click.option("--seeds", type=cli.IntRange(), default="0-63", metavar="LIST", help="Random seeds, e.g. 1,2,5-10.")
@click.option("--subdirs", is_flag=True, help="A folder for every 1000 seeds.")
@click.option("--labels", is_flag=True, help="Write the class of each image to OUTDIR/dataset.json.")
@click.option("--batch", type=click.IntRange(min=1), default=64, help="Images per pass on a GPU; changes no image.")
@click.option("--overwrite", is_flag=True, help="Make images anew; without it, seeds that are there are skipped.")
@click.option("--grid", metavar="PNG", help=f"Also write all images as one picture, the first {MOST_IN_GRID} at most.")
@sampling_options
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1  [default: cuda if there is one, else cpu]")
# fmt: on
def main(**flags):
    """Sample images from a snapshot, one PNG per seed.

    Alone, or under torchrun with any number of processes:
    torchrun --standalone --nproc_per_node=8 generate.py --network=SNAPSHOT --outdir=out --seeds=0-49999 --subdirs
    """
    device = distributed.choose_device(flags["device"])
    distributed.init(device)
    try:
        sample(flags, device)
    finally:
        distributed.shutdown()


def sample(flags: dict, device: torch.device) -> None:
    """Load, sample what is missing, write labels and grid."""
    check_grid(flags["grid"], flags["outdir"])
    prepared = prepare(flags["network"], flags, device)
    if flags["labels"] and not prepared.denoiser.spec.label_dim:
        raise UserError("--labels: the model was trained without classes; leave --labels out")
    folder = SampleFolder(flags["outdir"], digest(prepared.description), flags["subdirs"])
    seeds = list(dict.fromkeys(flags["seeds"]))
    # One process looks: another might find images that the first has already made in this run.
    classes = {} if flags["overwrite"] or not distributed.is_main() else folder.finished(seeds)
    classes = distributed.broadcast_object(classes)
    missing = [seed for seed in seeds if seed not in classes]
    share = min(flags["batch"], -(-len(missing) // distributed.world_size()) or 1)
    mine = [seed for part in distributed.rank_share(missing, share) for seed in part]

    samples = prepared.generate(mine, flags["batch"])
    bar = progress_bar(total=len(mine), desc="sampling", disable=not distributed.is_main() or not mine)
    with bar, folder.writing() as write, closing(samples):
        for part in samples:
            write(part)
            bar.update(len(part.seeds))
            if part.labels is not None:
                classes.update(zip(part.seeds, part.labels.tolist(), strict=True))
    for found in distributed.gather_objects(classes):
        classes.update(found)
    if distributed.is_main():
        finish(flags, folder, seeds, classes, prepared.snapshot.dataset.get("class_names"))
    distributed.print0(f"{folder.path}: {len(missing)} images made, {len(seeds) - len(missing)} there already")


def check_grid(grid: str | None, outdir: str) -> None:
    """Raise UserError for a picture that would count as one of the samples."""
    if grid is None:
        return
    if not grid.lower().endswith(".png"):
        raise UserError(f"--grid={grid} must end in .png")
    if Path(outdir).resolve() in Path(grid).resolve().parents:
        raise UserError(f"--grid={grid} lies inside --outdir, where it would count as a sample; write it elsewhere")
    if distributed.is_main():
        require_writable(grid)


def finish(flags: dict, folder: SampleFolder, seeds: list[int], classes: dict, class_names: list[str] | None) -> None:
    """Write what is made of all samples together."""
    if flags["labels"]:
        folder.write_labels({seed: classes[seed] for seed in seeds}, class_names)
    if flags["grid"]:
        save_grid(folder.read(seeds[:MOST_IN_GRID]), flags["grid"])


def run() -> None:
    """The whole program; ends the process."""
    cli.run(main, peers=Peers())
