"""Sampling flags, shared by generate.py and fid.py."""

from collections.abc import Callable
from dataclasses import fields

import click

from elucid.commands.command import Name, section
from elucid.dnnlib import cli
from elucid.training.config.settings import PRECISIONS
from elucid.training.noise.choices import VARIANCES
from elucid.training.registry.adm_presets import PRESETS as ADM_PRESETS
from elucid.training.registry.edm2_pairs import PAIRS
from elucid.training.registry.names import SAMPLERS
from elucid.training.registry.public_transformers import GUIDED, MODELS
from elucid.training.sampling.class_policy import POLICIES
from elucid.training.sampling.options import NOISE, SampleOptions

_above_zero = cli.FloatRange(min=0, min_open=True)
_unit = cli.FloatRange(min=0, max=1)
_not_negative, _any_positive = cli.FloatRange(min=0), click.FloatRange(min=0)

_adm_preset = click.option(
    "--adm_preset",
    type=Name("preset", ADM_PRESETS),
    help="Options of a guided- or improved-diffusion state dict.  [default: by its shapes]",
)


def _model(net: bool) -> list[Callable]:
    what = "Snapshot, run folder (its newest), or a public checkpoint."
    return [
        click.option("--network", *(["--net"] if net else []), "network", metavar="PKL|DIR|URL", help=what),
        click.option("--ema", metavar="NAME", help="EMA of the snapshot to use.  [default: the first]"),
        click.option(
            "--ema_std",
            type=_above_zero,
            metavar="FLOAT",
            help="EMA of this relative length, reconstructed from the snapshots of a run folder, e.g. 0.1.",
        ),
        _adm_preset,
        click.option(
            "--model",
            "--checkpoint_model",
            "checkpoint_model",
            type=Name("model", MODELS),
            help="Name of a public transformer in its own program, e.g. SiT-XL/2.  [default: by shapes and file name]",
        ),
        click.option("--class", "classes", metavar="INT|NAME", help="Class of all images.  [default: random, by seed]"),
        click.option(
            "--class_policy",
            type=click.Choice(POLICIES),
            help="Classes without --class: drawn by seed, equally many, or as in the training data.  [default: random]",
        ),
        click.option(
            "--precision", type=click.Choice(PRECISIONS), help="Precision of the network.  [default: as trained]"
        ),
        click.option(
            "--noise",
            type=click.Choice(NOISE),
            help="Where noise is drawn; cpu gives a seed the same on every device.  [default: device]",
        ),
        click.option(
            "--plugins",
            metavar="LIST",
            help="Your modules or files that the snapshot may use, e.g. my_net.py,my_pkg.nets.",
        ),
    ]


_SAMPLER = [
    click.option(
        "--sampler", type=Name("sampler"), help=f"{', '.join(SAMPLERS)} or file.py:Name.  [default: the run's, edm]"
    ),
    click.option("--steps", type=cli.Count(), help="Sampling steps.  [default: the sampler's, 18 for edm]"),
    click.option("--sigma_min", type=_above_zero, help="Lowest noise level above 0."),
    click.option("--sigma_max", type=_above_zero, help="Highest noise level."),
    click.option("--rho", type=_above_zero, help="Exponent of the noise schedule.  [default: 7]"),
    click.option("--S_churn", "S_churn", type=_not_negative, help="Stochasticity strength.  [default: 0]"),
    click.option("--S_min", "S_min", type=_not_negative, help="Smallest level with stochasticity.  [default: 0]"),
    click.option("--S_max", "S_max", type=_any_positive, help="Largest level with stochasticity.  [default: inf]"),
    click.option("--S_noise", "S_noise", type=_not_negative, help="Scale of the added noise.  [default: 1]"),
    click.option("--solver", type=click.Choice(["euler", "heun"]), help="Ablation sampler: solver."),
    click.option("--disc", type=click.Choice(["vp", "ve", "iddpm", "edm"]), help="Ablation sampler: time steps."),
    click.option("--schedule", type=click.Choice(["vp", "ve", "linear"]), help="Ablation sampler: sigma(t)."),
    click.option("--scaling", type=click.Choice(["vp", "none"]), help="Ablation sampler: s(t)."),
    click.option(
        "--respacing",
        "--timestep_respacing",
        "respacing",
        metavar="TEXT",
        help="Steps of a discrete process: 250, ddim25 or 10,15,20 (of three sections).",
    ),
    click.option("--eta", type=_unit, help="ddim: 0 is deterministic, 1 like ddpm.  [default: 0]"),
    click.option(
        "--variance",
        type=click.Choice(VARIANCES),
        help="ddpm: variance of a step, beta-tilde, beta or the network's.  [default: the model's]",
    ),
    click.option("--clip", type=bool, help="Clip the predicted image to [-1, 1].  [default: for ddpm models]"),
    click.option(
        "--threshold", type=_unit, metavar="P", help="Dynamic thresholding of the predicted image, e.g. 0.995."
    ),
    click.option(
        "--set",
        "set",
        multiple=True,
        metavar="sampler.OPTION=VALUE",
        help="Any option of the sampler or of the snapshot's encoder that has no flag; may be repeated.",
    ),
]
_GUIDANCE = [
    click.option(
        "--preset",
        type=Name("preset", {**PAIRS, **GUIDED}),
        help="Published guidance, e.g. edm2-img512-s-autog-fid or dit-xl-2-256; see docs/edm2.md and transformers.md.",
    ),
    click.option(
        "--cfg",
        "--guidance",
        "guidance",
        type=float,
        metavar="FLOAT",
        help="Scale of classifier-free guidance; 1 disables it.",
    ),
    click.option(
        "--guidance_interval",
        type=cli.NumberList(float),
        metavar="LO,HI",
        help="Interval of noise levels with guidance of any kind.  [default: all]",
    ),
    click.option(
        "--guidance_interval_t",
        type=cli.NumberList(float),
        metavar="LO,HI",
        help="The same in times of flow matching, 0 for data, 1 for noise.",
    ),
    click.option(
        "--guide",
        "--gnet",
        "guide",
        metavar="PKL|DIR|URL",
        help="Autoguidance by this weaker snapshot; --cfg is its scale.",
    ),
    click.option(
        "--guide_std", type=_above_zero, metavar="FLOAT", help="As --ema_std, for --guide, which is a run folder."
    ),
    click.option(
        "--classifier",
        metavar="PKL|DIR|URL",
        help="Guidance by this classifier of noisy images, also of models without classes, and besides --cfg.",
    ),
    click.option(
        "--classifier_scale", type=float, metavar="FLOAT", help="Scale of --classifier; 0 disables it.  [default: 1]"
    ),
]
_UPSAMPLING = [
    click.option(
        "--lowres_from", metavar="DIR|ZIP", help="Low-resolution images, for a model trained with --lowres: one a seed."
    ),
    click.option(
        "--cond_images",
        metavar="PATH",
        help="Maps for a model trained with --cond_images: a folder or zip, one a seed, or a single one.",
    ),
    click.option("--cond_labels", metavar="PATH", help="Vectors of labels: .npy [N,D], or a dataset."),
    click.option(
        "--members", type=cli.Count(), metavar="K", help="K samples of each condition, seeds in turn.  [default: 1]"
    ),
    click.option("--operator", metavar="NAME", help="Inverse problem: inpaint:mask.png, superres:4, mine.py:Name."),
    click.option("--measurement", metavar="PATH", help="What the operator made of the images: a file, or many."),
    click.option("--measurement_noise", metavar="KIND", help="gaussian:STD or poisson:GAIN.  [default: none]"),
    click.option(
        "--posterior", metavar="NAME", help="tmpd, pigdm, diffpir, dps or replacement, dps,step=0.5.  [default: tmpd]"
    ),
    click.option(
        "--upsample", metavar="PKL|DIR|URL", help="Enlarge the images with this model, trained with train.py --lowres."
    ),
    click.option(
        "--upsample_steps", type=cli.Count(), metavar="INT", help="Its sampling steps.  [default: its sampler's]"
    ),
]
_WINDOW = [
    click.option(
        "--on_latents",
        type=bool,
        help="Whether the model generates latents; must agree with the snapshot.",
    ),
    click.option(
        "--resolution",
        type=cli.Count(),
        metavar="INT",
        help="Side of the model's images; must agree with the snapshot.",
    ),
    click.option(
        "--x_start",
        type=int,
        metavar="INT",
        help="First column of the window, for a model trained on patches (in latent pixels for latents).",
    ),
    click.option("--y_start", type=int, metavar="INT", help="First row of the window."),
    click.option(
        "--image_size",
        type=cli.Count(),
        metavar="INT",
        help="Rows and columns of the window; may be fewer or more than in training.",
    ),
    click.option("--embed_fq", hidden=True),
    click.option("--mask_pos", type=bool, hidden=True),
]


def sampling_flags(net: bool = True) -> Callable:
    """Return a decorator that adds the sampling flags, including --network, to a command.

    `net` False: --net is no other name of --network, as the command has one of its own.
    """
    sections = [
        section("Model", *_model(net)),
        section("Sampler", *_SAMPLER),
        section("Guidance", *_GUIDANCE),
        section("Upsampling", *_UPSAMPLING),
        section("Models of patches and latents", *_WINDOW),
    ]

    def add(command: Callable) -> Callable:
        for one in reversed(sections):
            command = one(command)
        return command

    return add


def sample_options(flags: dict) -> SampleOptions:
    """Convert flags to options; prints a note for flags without effect."""
    if flags.pop("mask_pos"):
        raise click.UsageError("--mask_pos: a model trained with coordinates always needs them; leave it out")
    if flags.pop("embed_fq") is not None:
        click.echo("note: --embed_fq is accepted for old commands and has no effect", err=True)
    return SampleOptions(**flags)


def require_network(ctx: click.Context, network: str | None, preset: str | None) -> None:
    """Raise UsageError if there is no network; for a preset it says which one that wants."""
    if network is None:
        wanted = f", e.g. {PAIRS[preset].network}" if preset in PAIRS else f"; see {ctx.command_path} --help"
        raise click.UsageError(f"--network is missing{wanted}")


def require_one_source(ctx: click.Context, images, network, seeds, num, flags: dict) -> None:
    """Raise UsageError for contradicting flags."""
    if network is None:
        if images is None:
            raise click.UsageError("give --images=DIR|ZIP, or --network=SNAPSHOT with --seeds=0-49999")
        if seeds is not None:
            raise click.UsageError("--seeds goes with --network; a subset of --images is chosen by --num and --seed")
        names = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
        for name in (field.name for field in fields(SampleOptions)):
            if flags[name] not in (None, ()):
                raise click.UsageError(f"{names[name]} is for sampling with --network; leave it out with --images")
        return
    if images is not None:
        raise click.UsageError("--images and --network exclude each other; give one of them")
    if seeds is None:
        raise click.UsageError("--network needs --seeds, for example --seeds=0-49999")
    if num not in (None, len(set(seeds))):
        raise click.UsageError(f"--num={num} but {len(set(seeds))} different --seeds; leave --num out")
