"""Train a diffusion model: `train.py --outdir=runs --data=images.zip --cond=1`."""

import signal
import sys
from dataclasses import fields

import click
from click.core import ParameterSource

from elucid.commands.command import Chain, Command, Name, section, version_option
from elucid.commands.processes import processes
from elucid.dnnlib import cli
from elucid.dnnlib.errors import EXIT_STOPPED, Stopped
from elucid.training.config.presets import PRESETS
from elucid.training.config.settings import ON_FULL_DISK, PRECISIONS, LoopOptions
from elucid.training.config.train_options import DEFAULTS, TrainOptions
from elucid.training.noise.choices import BETA_SCHEDULES
from elucid.training.registry.adm_presets import PRESETS as ADM_PRESETS
from elucid.training.registry.public_transformers import MODELS

LOOP = LoopOptions()
NO_EFFECT = {"S_churn", "S_min", "S_max", "S_noise", "wandb_id"}

_positive, _above_zero, _share = cli.Count(), cli.FloatRange(min=0, min_open=True), cli.FloatRange(0, 1)

DATA = section(
    "Data",
    click.option(
        "--data", metavar="ZIP|DIR", help="Dataset: zip or folder from dataset_tool.py, or a folder of class folders."
    ),
    click.option("--cond", type=bool, help="Condition on class labels.  [default: 0]"),
    click.option("--xflip", type=bool, help="Double the dataset with horizontal flips.  [default: 0]"),
    click.option(
        "--augment", type=_share, help=f"Augmentation probability; 0 is off.  [default: {DEFAULTS['augment']}]"
    ),
    click.option(
        "--label_dropout", type=_share, help="Label dropout probability, for classifier-free guidance.  [default: 0]"
    ),
    click.option(
        "--lowres",
        type=cli.Count(min=2),
        metavar="FACTOR",
        help="Train a model that enlarges images FACTOR times, e.g. 2 or 4, for generate.py --upsample.",
    ),
    click.option(
        "--lowres_noise", type=_share, help="Largest noise in the low-resolution images, e.g. 0.1.  [default: 0]"
    ),
    click.option(
        "--cond_images",
        metavar="PATH",
        help="A map for each image as a condition: pictures or arrays of the same names.",
    ),
    click.option("--cond_enlarge", type=bool, help="Interpolate smaller maps to the images' size.  [default: 0]"),
    click.option("--cond_dropout", type=_share, help="Dropout of the maps, for guidance.  [default: 0]"),
    click.option(
        "--train_on_latents",
        type=bool,
        help="Train on a VAE's latents, encoded during training or stored by dataset_tool.py encode.",
    ),
    click.option(
        "--cache",
        type=click.Choice(["0", "1", "gpu"]),
        help="Cache decoded images: 0 no, 1 on disk, gpu on the device, if it has room.  [default: 1]",
    ),
    click.option("--prefetch", type=cli.Count(min=0), help="Batches loaded ahead.  [default: 2]"),
    click.option("--workers", type=_positive, help="Decoding threads if there is no cache.  [default: 1]"),
    click.option(
        "--transform",
        "transforms",
        multiple=True,
        metavar="NAME",
        help="random_crop or your own batch transform, file.py:Name, applied after all others; may be repeated.",
    ),
)
MODEL = section(
    "Model",
    click.option(
        "--preset", type=Name("preset", PRESETS), help="Published configuration; flags override it. See README."
    ),
    click.option(
        "--arch",
        type=Name("network"),
        help="Network: ddpmpp, ncsnpp, adm, edm2; transformers: dit-s, sit-xl, jit-b, lightningdit-xl, ddt, ...; or "
        f"file.py:Name.  [default: {DEFAULTS['arch']}]",
    ),
    click.option(
        "--cbase",
        "--channels",
        "cbase",
        type=_positive,
        help="Channels at full size, or of a transformer's tokens.  [default: the network's]",
    ),
    click.option("--cres", type=cli.NumberList(), help="Channel multipliers per level.  [default: the network's]"),
    click.option("--dropout", type=_share, help="Dropout probability.  [default: the network's, 0.13]"),
    click.option("--implicit_mlp", type=bool, help="Pixel-wise layers before the network's first convolution."),
    click.option(
        "--precond",
        type=Name("preconditioner", also=("cdm", "pedm")),
        help="Preconditioner and its loss: vp, ve, iddpm, edm, edm2, ddpm, flow; cdm, pedm: edm with that loss; "
        f"classifier, ddpm_classifier: of noisy images.  [default: {DEFAULTS['precond']}]",
    ),
    click.option("--beta_schedule", type=click.Choice(BETA_SCHEDULES), help="ddpm: its betas.  [default: linear]"),
    click.option("--diffusion_steps", type=_positive, help="ddpm: number of noise levels.  [default: 1000]"),
    click.option("--learn_sigma", type=bool, help="ddpm: learn the variance, with the loss hybrid.  [default: 0]"),
)
LOSS = section(
    "Loss",
    click.option(
        "--loss",
        type=Chain("loss"),
        help="Loss, e.g. 'patch(cdm(edm))', 'uncertainty(edm)' or 'alignment(flow)'.  [default: the preconditioner's]",
    ),
    click.option(
        "--teacher",
        metavar="PKL|URL",
        help="Trained model that a loss learns from; the run starts from its weights unless --transfer names others.",
    ),
    click.option("--martingale_lambda", type=float, help="Weight of the consistency term of the loss cdm."),
    click.option("--martingale_steps", type=int, help="Noise levels on each path of the loss cdm."),
    click.option("--patch", is_flag=True, help="Train on patches: the same as --loss='patch(...)'."),
    click.option("--real_p", type=_share, help="Fraction of full-size steps of the loss patch; implies --patch."),
    click.option(
        "--progressive", type=bool, help="Patch sizes from small to large instead of at random; implies --patch."
    ),
)
TRAINING = section(
    "Training",
    click.option(
        "--duration",
        type=cli.Images(10**6),
        metavar="MIMG",
        help=f"Training length, millions of images, or e.g. 2Gi.  [default: {LOOP.duration_mimg}]",
    ),
    click.option(
        "--batch", type=cli.ImageCount(), help=f"Images per step, all processes.  [default: {LOOP.batch_size}]"
    ),
    click.option(
        "--batch-gpu",
        type=cli.ImageCount("auto"),
        help="Micro-batch per process; a smaller one accumulates gradients. auto: the largest that fits into memory.",
    ),
    click.option(
        "--optimizer",
        type=Name("optimizer"),
        help=f"adam, adamw, sgd, muon, ... or file.py:Name.  [default: {DEFAULTS['optimizer']}]",
    ),
    click.option("--lr", type=_above_zero, help=f"Learning rate.  [default: {DEFAULTS['lr']}]"),
    click.option(
        "--lr_schedule",
        type=Name("lr_schedule"),
        help=f"constant, linear, cosine or inverse_sqrt.  [default: {DEFAULTS['lr_schedule']}]",
    ),
    click.option("--clip", type=_above_zero, metavar="NORM", help="Clip the gradient norm.  [default: off]"),
    click.option(
        "--ema",
        type=cli.NumberList(float, images=10**6),
        metavar="MIMG",
        help="EMA half-life; a list keeps several averages.  [default: 0.5]",
    ),
    click.option(
        "--max-bad-steps",
        type=_positive,
        help="Steps in a row left out, as loss or gradient is not finite, before the run goes back to its last state "
        f"once, and then ends.  [default: {LOOP.max_bad_steps}]",
    ),
    click.option("--seed", type=cli.Count(min=0), help="Random seed.  [default: random]"),
    click.option("--transfer", metavar="PKL|PT|URL", help="Start from the weights of a snapshot or checkpoint."),
    click.option("--adm_preset", type=Name("preset", ADM_PRESETS), help="Options of a state dict to --transfer."),
    click.option(
        "--checkpoint_model",
        type=Name("model", MODELS),
        help="Name of a transformer's state dict to --transfer, e.g. SiT-XL/2.  [default: by its shapes]",
    ),
    click.option("--resume", metavar="PT|DIR|auto", help="Continue a run from its state, in its folder."),
)
SPEED = section(
    "Precision and speed",
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help=f"Precision of the network.  [default: {DEFAULTS['precision']}]",
    ),
    click.option("--fp16", type=bool, help="The same as --precision=fp16."),
    click.option(
        "--ls", type=_above_zero, help=f"Initial loss scale with fp16, then adaptive.  [default: {LOOP.loss_scale:g}]"
    ),
    click.option("--compile", type=bool, help=f"Compile the network (torch.compile).  [default: {int(LOOP.compile)}]"),
    click.option(
        "--shard",
        type=cli.Count(min=0),
        is_flag=False,
        flag_value=1,
        metavar="[N]",
        help="Share out weights, moments and averages over all processes, or over groups of N.  [default: 0]",
    ),
    click.option("--checkpointing", type=bool, help="Compute blocks again in the backward pass.  [default: 0]"),
    click.option("--bench", type=bool, help=f"Enable cuDNN benchmarking.  [default: {int(LOOP.bench)}]"),
    click.option(
        "--deterministic",
        type=bool,
        help=f"Same bits in each run on GPUs, too; slower, no benchmarking.  [default: {int(LOOP.deterministic)}]",
    ),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
)
OUTPUT = section(
    "Output",
    click.option("--outdir", metavar="DIR", help="Folder for the run folders."),
    click.option("--desc", "--experiment_name", "desc", metavar="TEXT", help="Text added to the run folder's name."),
    click.option("--nosubdir", is_flag=True, help="Write into --outdir itself."),
    click.option(
        "--tick",
        type=cli.Images(1000),
        metavar="KIMG",
        help=f"Interval of progress reports in thousands of images, or e.g. 128Ki.  [default: {LOOP.tick_kimg}]",
    ),
    click.option(
        "--snap",
        type=cli.Ticks(),
        metavar="TICKS",
        help=f"Interval of snapshots, in ticks or as 8Mi; 0: only at the end.  [default: {LOOP.snapshot_ticks}]",
    ),
    click.option(
        "--dump",
        type=cli.Ticks(),
        metavar="TICKS",
        help=f"Interval of states to resume from, likewise; 0: only at the end.  [default: {LOOP.state_ticks}]",
    ),
    click.option("--heldout", metavar="ZIP|DIR", help="Log the loss of these images at each snapshot, too."),
    click.option(
        "--eval",
        metavar="N@TICKS",
        help="Score N samples every so many ticks and at the end, e.g. 5k@25, and keep the best snapshot; "
        "options: --set eval.detector=NAME and others.",
    ),
    click.option(
        "--keep-snapshots",
        type=_positive,
        metavar="N",
        help="Remove all but the newest N snapshots; averages by export.py ema need those of all of the training.",
    ),
    click.option("--keep-states", type=_positive, metavar="N", help="Remove all but the newest N states."),
    click.option(
        "--milestones",
        type=cli.Images(1000),
        metavar="KIMG",
        help="Never remove the first state and snapshot of each KIMG thousands of images.",
    ),
    click.option(
        "--on-full-disk",
        type=click.Choice(ON_FULL_DISK),
        help=f"What to do if a state or snapshot cannot be written.  [default: {LOOP.on_full_disk}]",
    ),
    click.option(
        "--time-limit", metavar="TIME", help="Save and end so that the command takes at most TIME, e.g. 3h50m."
    ),
    click.option("--hook", "hooks", multiple=True, metavar="NAME", help="Additional hook, file.py:Name."),
    click.option(
        "--log",
        "loggers",
        multiple=True,
        type=Name("logger"),
        metavar="NAME",
        help="Additional logger: tensorboard, wandb, mlflow, trackio or file.py:Name.",
    ),
)
OTHER = section(
    "Other",
    click.option(
        "--set",
        "set",
        multiple=True,
        metavar="PART.OPTION=VALUE",
        help="Any option that has no flag, e.g. network.num_blocks=2; may be repeated.",
    ),
    click.option("--plugins", metavar="LIST", help="Modules or files, comma-separated, that a state may use."),
    click.option("-n", "--dry-run", is_flag=True, help="Check and print the options, then exit."),
    version_option,
    *(click.option(f"--{name}", name, hidden=True) for name in sorted(NO_EFFECT)),
)


@click.command(
    cls=Command,
    examples=[
        "train.py --outdir=runs --data=images.zip --cond=1 --batch=64 --batch-gpu=16",
        "torchrun --standalone --nproc_per_node=8 train.py --outdir=runs --data=images.zip --preset=ffhq-64",
    ],
)
@DATA
@MODEL
@LOSS
@TRAINING
@SPEED
@OUTPUT
@OTHER
@click.pass_context
def main(ctx, **flags):
    """Train a diffusion model on a zip or folder of images, in one process or under torchrun."""
    given = {
        name: value for name, value in flags.items() if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    require_sensible(given)
    for name in ("SIGTERM", "SIGUSR1", "SIGHUP"):  # until training has handlers of its own
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), lambda *_: sys.exit(EXIT_STOPPED))
    from elucid.api import launch  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed
    from elucid.torch_utils.signals import StartStopped
    from elucid.torch_utils.torchrun.errors import end_torchrun, ignore_signals, tell_torchrun
    from elucid.training.stopping import time_left

    for name in sorted(NO_EFFECT & given.keys()):
        distributed.print0(f"note: --{name} is accepted for old commands and has no effect on training")
    options = TrainOptions(
        **{name: given[name] for name in {field.name for field in fields(TrainOptions)} & given.keys()}
    )
    if options.time_limit is not None:
        options.time_limit = time_left(options.time_limit)
    try:
        (launch.dry_run if flags["dry_run"] else launch.train)(options)
    except (Stopped, StartStopped) as stopped:
        if isinstance(stopped, StartStopped) and processes().another_failed():
            raise
        ignore_signals()  # torchrun ends the others when the first has ended
        if isinstance(stopped, Stopped):
            distributed.barrier()
            if stopped.by_itself:
                end_torchrun()
        tell_torchrun(f"{stopped}; exit code {EXIT_STOPPED}")
        return EXIT_STOPPED
    finally:
        distributed.shutdown()


def require_sensible(given: dict) -> None:
    """Reject values that are most likely a mistake; the message says how to use them anyway."""
    mimg = given.get("duration", 0)
    if mimg > 50_000:
        raise click.UsageError(
            f"--duration={mimg:g} is {mimg * 1e6:.0e} images, as the unit is a million; "
            f"--duration={mimg / 1e6:g} would be {mimg:g} images. To insist: --set loop.duration_mimg={mimg:g}"
        )
    if given.get("batch", 0) > 1_000_000:
        raise click.UsageError(
            f"--batch={given['batch']} images in one step; to insist: --set loop.batch_size={given['batch']}"
        )
    if given.get("lr", 0) >= 10:
        raise click.UsageError(
            f"--lr={given['lr']:g} will diverge; 1e-4 to 1e-2 are usual. To insist: --set optimizer.lr={given['lr']:g}"
        )
    for name in ("ema", "tick"):
        values = given.get(name, ())
        largest, unit = (
            max(values if isinstance(values, list) else [values or 0], default=0),
            {"ema": 1e6, "tick": 1e3}[name],
        )
        if largest * unit > 1e10:
            option = {"ema": "ema.halflife_mimg", "tick": "loop.tick_kimg"}[name]
            raise click.UsageError(
                f"--{name}={largest:g} is {largest * unit:.0e} images; to insist: --set {option}={largest:g}"
            )


def run() -> None:
    """Run the command line and exit."""
    cli.run(main, peers=processes())
