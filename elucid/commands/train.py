"""Train a diffusion model: `train.py --outdir=runs --data=images.zip --cond=1`."""

import json
from contextlib import nullcontext
from pathlib import Path

import click
from click.core import ParameterSource

from elucid.dnnlib import cli
from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.torchrun_errors import Peers
from elucid.training.config import presets
from elucid.training.config.options import describe, explicit, options_from
from elucid.training.config.run_folders import (
    claim,
    find_state,
    holds_a_run,
    merge_options,
    new_folder,
    remove_leftovers,
)
from elucid.training.config.settings import PRECISIONS, LoopOptions
from elucid.training.hooks.base import Hooks
from elucid.training.hooks.grid import SampleGrid
from elucid.training.loggers.base import Loggers
from elucid.training.loop import train
from elucid.training.registry.components import make, walk
from elucid.training.report import Report
from elucid.training.run import Run, check, write_options
from elucid.training.snapshots.snapshot import load_snapshot
from elucid.training.snapshots.trust import require_named, trust

LOOP = LoopOptions()
IGNORED = {"S_churn", "S_min", "S_max", "S_noise", "wandb_id"}


def use_preset(ctx, param, value):
    """Lay the preset's values under the flags: a flag on the command line wins."""
    if value is not None:
        ctx.default_map = {**(ctx.default_map or {}), **presets.PRESETS[value]}
    return value


# fmt: off
@click.command(context_settings={"show_default": True, "max_content_width": 120})
@click.option("--outdir", metavar="DIR", help="Where run folders are made.")
@click.option("--data", metavar="ZIP|DIR", help="Data set, as dataset_tool.py writes it.")
@click.option("--preset", type=click.Choice(sorted(presets.PRESETS)), callback=use_preset, is_eager=True,
              help="Recipe whose flags are the defaults.")
@click.option("--train_on_latents", "--train-on-latents", type=bool, default=False,
              help="Train on a VAE's latents, encoded at every step, or stored by dataset_tool.py encode.")
@click.option("--cond", type=bool, default=False, help="Condition on the class labels.")
@click.option("--transform", "transforms", multiple=True, metavar="NAME",
              help="A change of the batch of your own, file.py:Name, after all others; may be repeated.")
@click.option("--arch", default="ddpmpp", metavar="NAME", help="Network: ddpmpp, ncsnpp, adm or module:Name.")
@click.option("--precond", default="edm", metavar="NAME",
              help="Preconditioner and its loss: vp, ve, iddpm, edm; cdm, pedm: edm with that loss.")
@click.option("--loss", metavar="CHAIN", help="Loss, where it is not the preconditioner's own, e.g. 'patch(cdm(edm))'.")
@click.option("--martingale_lambda", type=float, help="Weight of the consistency term of the loss cdm.")
@click.option("--martingale_steps", type=int, help="Noise levels on each path of the loss cdm.")
@click.option("--patch", is_flag=True, help="Train on patches: the same as --loss='patch(...)'.")
@click.option("--real_p", type=cli.FloatRange(0, 1),
              help="Share of full-size steps of the loss patch; implies --patch.")
@click.option("--progressive", type=bool, help="Patch sizes from small to large instead of at random; implies --patch.")
@click.option("--implicit_mlp", type=bool, help="Pixel-wise layers before the network's first convolution.")
@click.option("--duration", type=cli.FloatRange(min=0, min_open=True), default=LOOP.duration_mimg, metavar="MIMG",
              help="Training length, millions of images.")
@click.option("--batch", type=click.IntRange(min=1), default=LOOP.batch_size, help="Images per step, all processes.")
@click.option("--batch-gpu", type=click.IntRange(min=1), help="Images per process and pass; less accumulates.")
@click.option("--cbase", type=click.IntRange(min=1), help="Channels at full size.  [default: the network's]")
@click.option("--cres", type=cli.NumberList(), help="Channel multipliers per level.  [default: the network's]")
@click.option("--optimizer", default="adam", metavar="NAME", help="adam, adamw, sgd, muon, ... or module:Name.")
@click.option("--lr", type=cli.FloatRange(min=0, min_open=True), default=1e-3, help="Learning rate.")
@click.option("--lr_schedule", "--lr-schedule", default="constant", metavar="NAME",
              help="Rate after the warm-up: constant, linear, cosine, inverse_sqrt or module:Name.")
@click.option("--clip", type=cli.FloatRange(min=0, min_open=True), metavar="NORM",
              help="Scale gradients down to this norm.  [default: not]")
@click.option("--ema", type=cli.NumberList(float), metavar="MIMG",
              help="Half-life of the weight average; a list keeps several.  [default: 0.5]")
@click.option("--dropout", type=cli.FloatRange(0, 1), help="Dropout probability.  [default: the network's, 0.13]")
@click.option("--augment", type=cli.FloatRange(0, 1), default=0.12, help="Augmentation probability; 0 is off.")
@click.option("--label_dropout", "--label-dropout", type=cli.FloatRange(0, 1), default=0.0,
              help="Share of labels dropped, for classifier-free guidance.")
@click.option("--xflip", type=bool, default=False, help="Double the data set by mirror images.")
@click.option("--precision", type=click.Choice(PRECISIONS), default=LOOP.precision, help="Arithmetic of the network.")
@click.option("--fp16", type=bool, help="The same as --precision=fp16.")
@click.option("--ls", type=cli.FloatRange(min=0, min_open=True), default=LOOP.loss_scale,
              help="First loss scale with fp16; it adapts.")
@click.option("--compile", type=bool, default=LOOP.compile, help="Compile the network (torch.compile).")
@click.option("--bench", type=bool, default=LOOP.bench, help="Let cuDNN choose convolutions by timing them.")
@click.option("--cache", type=click.Choice(["0", "1", "gpu"]), default="1",
              help="Keep decoded images: no, on disk, or on the device.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Threads that decode images without a cache.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1  [default: cuda if there is one, else cpu]")
@click.option("--set", "assignments", multiple=True, metavar="PART.OPTION=VALUE",
              help="Any option that has no flag, e.g. network.num_blocks=2; may be repeated.")
@click.option("--plugins", metavar="LIST", help="Modules or files, comma-separated, that a state may name.")
@click.option("--hook", "hooks", multiple=True, metavar="NAME", help="A hook of your own, file.py:Name.")
@click.option("--log", "loggers", multiple=True, metavar="NAME", help="One more logger, file.py:Name.")
@click.option("--S_churn", "S_churn", type=float, hidden=True)
@click.option("--S_min", "S_min", type=float, hidden=True)
@click.option("--S_max", "S_max", type=float, hidden=True)
@click.option("--S_noise", "S_noise", type=float, hidden=True)
@click.option("--wandb_id", hidden=True)
@click.option("--desc", "--experiment_name", "desc", metavar="TEXT", help="Text added to the run folder's name.")
@click.option("--nosubdir", is_flag=True, help="Write into --outdir itself.")
@click.option("--tick", type=cli.FloatRange(min=0, min_open=True), default=LOOP.tick_kimg, metavar="KIMG",
              help="Progress is printed every so many thousand images.")
@click.option("--snap", type=click.IntRange(min=0), default=LOOP.snapshot_ticks, metavar="TICKS",
              help="How often to write a snapshot; 0: at the end.")
@click.option("--dump", type=click.IntRange(min=0), default=LOOP.state_ticks, metavar="TICKS",
              help="How often to write a state to resume from; 0: at the end.")
@click.option("--seed", type=click.IntRange(min=0), help="Random seed  [default: random]")
@click.option("--transfer", metavar="PKL|URL", help="Start from the weights of a snapshot.")
@click.option("--resume", metavar="PT|DIR|auto", help="Continue a run from its state, in its folder.")
@click.option("-n", "--dry-run", is_flag=True, help="Check and print the options, then stop.")
@click.pass_context
# fmt: on
def main(ctx, **flags):
    """Train a diffusion model on a zip or folder of images.

    Alone, or under torchrun with any number of processes:
    torchrun --standalone --nproc_per_node=8 train.py --outdir=runs --data=images.zip
    """
    device = distributed.choose_device(flags["device"])
    distributed.init(device)
    try:
        given = {name for name in flags if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        if "assignments" in given and flags["preset"]:  # beside the preset's own, not instead of them
            own = presets.PRESETS[flags["preset"]].get("assignments", ())
            flags["assignments"] = (*own, *flags["assignments"])
        start(flags, given, device)
    finally:
        distributed.shutdown()


def start(flags: dict, given: set[str], device) -> None:
    """Options, folder, run; then the loop. `given` names the flags that the command line itself has."""
    for flag in IGNORED & given:
        distributed.print0(f"note: --{flag} is accepted for old commands and has no effect on training")
    trust(plugins_of(flags))
    options, folder, state = options_and_state(flags, given)
    if flags["dry_run"]:
        show(options)
        return
    source = None
    if flags["transfer"]:
        named = (options[part]["name"] for part in ("network", "precond"))
        trust(name.rpartition(":")[0] for name in named if ":" in name)  # so the snapshot may name it too
        source = load_snapshot(flags["transfer"])
    run = Run(options, device, source)
    if folder is None:
        description = describe(options, distributed.world_size(), flags["desc"])
        folder = distributed.broadcast_object(
            new_folder(flags["outdir"], description, flags["nosubdir"]) if distributed.is_main() else None
        )
    with claim(folder) if distributed.is_main() else nullcontext():
        loggers = Loggers([make(one, "logger", folder=folder) for one in loggers_of(options)])
        run.log = loggers
        begin(run, folder, state)
        state = source = None  # gigabytes that training does not need
        hooks = [Report(loggers), SampleGrid(loggers), *(make(one, "hook") for one in options.get("hooks", []))]
        if train(run, folder, Hooks(hooks)):
            run.log(f"done: {folder}")


def plugins_of(flags: dict) -> list[str]:
    """Modules and files of --plugins."""
    return [name for name in (flags["plugins"] or "").split(",") if name]


def loggers_of(options: dict) -> list[dict]:
    """The components of all loggers: the main process's terminal and stats.jsonl, and what --log adds."""
    if not distributed.is_main():
        return []
    return [{"name": "console"}, {"name": "jsonl"}, *options.get("loggers", [])]


def options_and_state(flags: dict, given: set[str]) -> tuple[dict, Path | None, dict | None]:
    """The run's options; with --resume its folder and state, or neither where `auto` finds none."""
    for flag in ("resume", "transfer"):
        if flags[flag] == "":
            raise UserError(f"--{flag}= is empty; name a file, or leave it out")
    if flags["resume"] and flags["transfer"]:
        raise UserError("--resume and --transfer exclude each other: resume continues a run, transfer starts one")
    options = options_from(flags) if flags["data"] else None
    if flags["resume"]:
        if flags["resume"] == "auto" and options is None:
            raise UserError("--resume=auto needs the --data and --outdir of the run")
        description = describe(options, distributed.world_size(), flags["desc"]) if options else ""
        found = find_state(flags["resume"], flags["outdir"], description)
        if found is not None:
            folder, state = found
            known = options or options_from({**flags, "data": ""})
            merged = merge_options(state, explicit(flags, given, known))
            named = [component["name"].rpartition(":")[0] for component in walk(known)]
            require_named(merged, [*named, *plugins_of(flags)])
            return merged, folder, state
    if options is None:
        raise UserError("--data is missing; make a data set with dataset_tool.py and name it here")
    if not flags["outdir"] and not flags["dry_run"]:
        raise UserError("--outdir is missing; name a folder for the runs, e.g. --outdir=runs")
    return options, None, None


def begin(run: Run, folder: Path, state: dict | None) -> None:
    """Take up a state, or start anew; say what is trained."""
    if state is not None:
        if distributed.is_main():
            remove_leftovers(folder)
        run.resume(state)
        run.log(f"resuming {folder} at {run.nimg / 1000:.1f} kimg")
    elif holds_a_run(folder):
        run.log(f"warning: {folder} holds an earlier run; its files stay beside this one's, or are replaced")
    if run.transferred is not None:
        run.log(run.transferred)
    if distributed.is_main():
        write_options(folder, run.options)
    introduce(run, folder, run.log)


def show(options: dict) -> None:
    """Check the options and print them with every default filled in."""
    dataset, parts = check(options)
    distributed.print0(json.dumps({**options, **parts.options}, indent=2))
    distributed.print0(f"dry run: {len(dataset)} images of {dataset.resolution[0]}x{dataset.resolution[1]}, "
                       f"{sum(p.numel() for p in parts.denoiser.parameters()):,} parameters; nothing written")


def introduce(run: Run, folder: Path, log: Loggers) -> None:
    """What is about to be trained, in a few lines."""
    data, loop = run.dataset, run.loop
    count = sum(parameter.numel() for parameter in run.denoiser.parameters())
    labels = f"{data.label_dim} classes" if data.label_dim else "no labels"
    log(f"folder    {folder}")
    height, width = data.resolution
    what = "images" if data.encoder is None else "stored latents"
    log(f"data      {data.path}: {len(data)} {what}, {height}x{width}, {data.channels} channels, {labels}")
    if run.denoiser.spec.latent:
        channels, height, width = run.denoiser.spec.sample_shape
        log(f"latents   {height}x{width}, {channels} channels, of {json.dumps(run.options['encoder'])}")
        if run.options["augment"] is not None:
            log("warning: augmentation moves the latents, not the images they are of; --augment=0 is usual here")
    kinds = f"{type(run.denoiser).__name__}, {type(run.loss).__name__}"
    log(f"network   {run.options['network']['name']}, {count:,} parameters; {kinds}")
    processes = distributed.world_size()
    passes = f"{run.grad_accum_steps} passes x {run.micro_batch_size} images"
    log(f"batch     {loop.batch_size} = {processes} processes x {passes}")
    log(f"device    {run.device}, {loop.precision}; seed {loop.seed}; {loop.duration_mimg * 1000:g} kimg")


def run() -> None:
    """The whole program; ends the process."""
    cli.run(main, peers=Peers())
