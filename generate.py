"""Sample images from a snapshot: `python generate.py --network=SNAPSHOT --outdir=out --seeds=0-63`.

Read next: `training/generation.py`.
"""

from contextlib import closing
from pathlib import Path

import click
import torch
from tqdm import tqdm

from dnnlib import cli
from dnnlib.config import set_by_path
from dnnlib.errors import UserError
from dnnlib.files import fetch, sha256
from torch_utils import distributed
from training.build import make, make_encoder, resolved
from training.generation import check_class, generate
from training.grid import save_grid
from training.loop import set_precision
from training.names import SAMPLERS
from training.run import PRECISIONS
from training.sample_folder import SampleFolder, digest
from training.snapshot import load_snapshot

SAMPLER_OPTIONS = {
    "steps": "num_steps",
    "sigma_min": "sigma_min",
    "sigma_max": "sigma_max",
    "rho": "rho",
    "S_churn": "S_churn",
    "S_min": "S_min",
    "S_max": "S_max",
    "S_noise": "S_noise",
    "solver": "solver",
    "disc": "discretization",
    "schedule": "schedule",
    "scaling": "scaling",
}
"""Which of the sampler's options each flag sets; a flag that is not given leaves the sampler's default."""
ABLATION_FLAGS = ("solver", "disc", "schedule", "scaling")
MOST_IN_GRID = 1024


# fmt: off
@click.command(context_settings={"show_default": True, "max_content_width": 120})
@click.option("--network", metavar="PKL|URL", required=True, help="Snapshot, or a published EDM-family checkpoint.")
@click.option("--outdir", metavar="DIR", required=True, help="Where the images go.")
@click.option("--seeds", type=cli.IntRange(), default="0-63", metavar="LIST", help="Random seeds, e.g. 1,2,5-10.")
@click.option("--subdirs", is_flag=True, help="A folder for every 1000 seeds.")
@click.option("--class", "class_idx", type=int, metavar="INT", help="Class of all images.  [default: drawn by the seed]")
@click.option("--labels", is_flag=True, help="Write the class of each image to OUTDIR/dataset.json.")
@click.option("--batch", type=click.IntRange(min=1), default=64, help="Images per pass on a GPU; no image changes by it.")
@click.option("--overwrite", is_flag=True, help="Make images anew; without it, seeds that are there are skipped.")
@click.option("--grid", metavar="PNG", help=f"Also write all images as one picture, the first {MOST_IN_GRID} at most.")
@click.option("--ema", metavar="NAME", help="Which weight average of the snapshot.  [default: the first]")
@click.option("--sampler", metavar="NAME",
              help=f"{', '.join(SAMPLERS)}, module:Name or file.py:Name.  [default: edm]")
@click.option("--steps", type=click.IntRange(min=1), help="Sampling steps.  [default: the sampler's, 18 for edm]")
@click.option("--sigma_min", type=click.FloatRange(min=0, min_open=True), help="Lowest noise level above 0.")
@click.option("--sigma_max", type=click.FloatRange(min=0, min_open=True), help="Highest noise level.")
@click.option("--rho", type=click.FloatRange(min=0, min_open=True), help="Exponent of the time steps.  [default: 7]")
@click.option("--S_churn", "S_churn", type=click.FloatRange(min=0), help="Strength of added noise.  [default: 0]")
@click.option("--S_min", "S_min", type=click.FloatRange(min=0), help="Lowest level with added noise.  [default: 0]")
@click.option("--S_max", "S_max", type=click.FloatRange(min=0), help="Highest level with added noise.  [default: inf]")
@click.option("--S_noise", "S_noise", type=click.FloatRange(min=0), help="Scale of the added noise.  [default: 1]")
@click.option("--solver", type=click.Choice(["euler", "heun"]), help="Ablation sampler: solver.")
@click.option("--disc", type=click.Choice(["vp", "ve", "iddpm", "edm"]), help="Ablation sampler: time steps.")
@click.option("--schedule", type=click.Choice(["vp", "ve", "linear"]), help="Ablation sampler: sigma(t).")
@click.option("--scaling", type=click.Choice(["vp", "none"]), help="Ablation sampler: s(t).")
@click.option("--set", "assignments", multiple=True, metavar="sampler.OPTION=VALUE",
              help="Any option of the sampler that has no flag; may be repeated.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Arithmetic of the network.  [default: as trained]")
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
        run(flags, device)
    finally:
        distributed.shutdown()


def run(flags: dict, device: torch.device) -> None:
    """Load, sample what is missing, write labels and grid."""
    check_grid(flags["grid"], flags["outdir"])
    component = sampler_component(flags)
    sampler = make(component, SAMPLERS, "sampler")
    snapshot = load_snapshot(flags["network"], device, flags["ema"])
    denoiser, encoder = snapshot.ema, make_encoder(snapshot.encoder)
    check_class(denoiser.spec.label_dim, flags["class_idx"])
    if flags["labels"] and not denoiser.spec.label_dim:
        raise UserError("--labels: the model was trained without classes; leave --labels out")
    denoiser.precision = flags["precision"] or denoiser.precision
    set_precision(denoiser.precision, bench=False)  # timing would choose other kernels, and other bits, in every run

    options = {
        "network": sha256(fetch(flags["network"])),
        "ema": flags["ema"] or next(iter(snapshot.emas)),
        "sampler": resolved(component, sampler),
        "class": flags["class_idx"],
        "precision": denoiser.precision,
        "device": device.type,
    }
    folder = SampleFolder(flags["outdir"], digest(options), flags["subdirs"])
    seeds = list(dict.fromkeys(flags["seeds"]))
    # One process looks: another might find images that the first has already made in this run.
    classes = {} if flags["overwrite"] or not distributed.is_main() else folder.finished(seeds)
    classes = distributed.broadcast_object(classes)
    missing = [seed for seed in seeds if seed not in classes]
    share = min(flags["batch"], -(-len(missing) // distributed.world_size()) or 1)
    mine = [seed for part in distributed.rank_share(missing, share) for seed in part]

    samples = generate(
        denoiser, encoder, mine, device=device, sampler=sampler, batch_size=flags["batch"], class_idx=flags["class_idx"]
    )
    bar = tqdm(total=len(mine), desc="sampling", unit="img", disable=not distributed.is_main() or not mine)
    with bar, folder.writing() as write, closing(samples):
        for part in samples:
            write(part)
            bar.update(len(part.seeds))
            if part.labels is not None:
                classes.update(zip(part.seeds, part.labels.tolist(), strict=True))
    for found in distributed.gather_objects(classes):
        classes.update(found)
    if distributed.is_main():
        finish(flags, folder, seeds, classes, snapshot.dataset.get("class_names"))
    distributed.print0(f"{folder.path}: {len(missing)} images made, {len(seeds) - len(missing)} there already")


def sampler_component(flags: dict) -> dict:
    """The sampler as {"name": ..., option: value}, from its flags."""
    chosen = [flag for flag in ABLATION_FLAGS if flags[flag] is not None]
    name = flags["sampler"] or ("ablation" if chosen else "edm")
    given = {option: flags[flag] for flag, option in SAMPLER_OPTIONS.items() if flags[flag] is not None}
    options = {"sampler": {"name": name, **given}}
    for assignment in flags["assignments"]:
        set_by_path(options, assignment)
    return options["sampler"]


def check_grid(grid: str | None, outdir: str) -> None:
    """Raise UserError for a picture that would count as one of the samples."""
    if grid is None:
        return
    if not grid.lower().endswith(".png"):
        raise UserError(f"--grid={grid} must end in .png")
    if Path(outdir).resolve() in Path(grid).resolve().parents:
        raise UserError(f"--grid={grid} lies inside --outdir, where it would count as a sample; write it elsewhere")


def finish(flags: dict, folder: SampleFolder, seeds: list[int], classes: dict, class_names: list[str] | None) -> None:
    """Write what is made of all samples together."""
    if flags["labels"]:
        folder.write_labels({seed: classes[seed] for seed in seeds}, class_names)
    if flags["grid"]:
        save_grid(folder.read(seeds[:MOST_IN_GRID]), flags["grid"])


if __name__ == "__main__":
    cli.run(main)
