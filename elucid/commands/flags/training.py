"""The flags of train.py, in sections."""

import click

from elucid.commands.command import Chain, Name, section, version_option
from elucid.dnnlib import cli
from elucid.training.config.presets.table import PRESETS
from elucid.training.config.settings import ON_FULL_DISK, PRECISIONS, LoopOptions
from elucid.training.config.train_options import DEFAULTS
from elucid.training.noise.choices import BETA_SCHEDULES
from elucid.training.registry.adm_presets import PRESETS as ADM_PRESETS
from elucid.training.registry.public_transformers import MODELS

LOOP = LoopOptions()
NO_EFFECT = {"S_churn", "S_min", "S_max", "S_noise", "wandb_id"}

_positive, _above_zero, _share = cli.Count(), cli.FloatRange(min=0, min_open=True), cli.FloatRange(0, 1)

DATA = section(
    "Data",
    click.option(
        "--data",
        metavar="ZIP|DIR|URL",
        help="Dataset: zip or folder from dataset_tool.py, a folder of class folders, arrays (.h5, .zarr, .npy, .npz), "
        "or shards: DIR, s3://, https://.",
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
    click.option("--heldout_cond_images", metavar="PATH", help="The maps of the images of --heldout."),
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

TRAINING_FLAGS = (DATA, MODEL, LOSS, TRAINING, SPEED, OUTPUT, OTHER)
"""Decorators that add the sections, in the order of the help."""


def training_flags(command):
    """Add all flags to a command."""
    for add in reversed(TRAINING_FLAGS):
        command = add(command)
    return command
