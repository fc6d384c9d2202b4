"""The flags of sampling, which generate.py and fid.py --network share."""

from collections.abc import Callable

import click

from elucid.dnnlib import cli
from elucid.training.config.settings import PRECISIONS
from elucid.training.registry.names import SAMPLERS

_ABOVE_ZERO, _NOT_NEGATIVE = click.FloatRange(min=0, min_open=True), click.FloatRange(min=0)

# fmt: off
_FLAGS = [
    click.option("--class", "class_idx", type=int, metavar="INT",
                 help="Class of all images.  [default: drawn by the seed]"),
    click.option("--ema", metavar="NAME", help="Which weight average of the snapshot.  [default: the first]"),
    click.option("--sampler", metavar="NAME",
                 help=f"{', '.join(SAMPLERS)}, module:Name or file.py:Name.  [default: edm]"),
    click.option("--steps", type=click.IntRange(min=1), help="Sampling steps.  [default: the sampler's, 18 for edm]"),
    click.option("--sigma_min", type=_ABOVE_ZERO, help="Lowest noise level above 0."),
    click.option("--sigma_max", type=_ABOVE_ZERO, help="Highest noise level."),
    click.option("--rho", type=_ABOVE_ZERO, help="Exponent of the time steps.  [default: 7]"),
    click.option("--S_churn", "S_churn", type=_NOT_NEGATIVE, help="Strength of added noise.  [default: 0]"),
    click.option("--S_min", "S_min", type=_NOT_NEGATIVE, help="Lowest level with added noise.  [default: 0]"),
    click.option("--S_max", "S_max", type=_NOT_NEGATIVE, help="Highest level with added noise.  [default: inf]"),
    click.option("--S_noise", "S_noise", type=_NOT_NEGATIVE, help="Scale of the added noise.  [default: 1]"),
    click.option("--solver", type=click.Choice(["euler", "heun"]), help="Ablation sampler: solver."),
    click.option("--disc", type=click.Choice(["vp", "ve", "iddpm", "edm"]), help="Ablation sampler: time steps."),
    click.option("--schedule", type=click.Choice(["vp", "ve", "linear"]), help="Ablation sampler: sigma(t)."),
    click.option("--scaling", type=click.Choice(["vp", "none"]), help="Ablation sampler: s(t)."),
    click.option("--cfg", type=float, metavar="FLOAT",
                 help="Guidance: away from the model's prediction without a class; 1 is none."),
    click.option("--guidance_interval", "--guidance-interval", type=cli.NumberList(float), metavar="LO,HI",
                 help="Noise levels with guidance.  [default: all]"),
    click.option("--guide", metavar="PKL|URL", help="Autoguidance: --cfg is away from this weaker snapshot instead."),
    click.option("--on_latents", "--on-latents", type=bool,
                 help="Whether the model makes latents; the snapshot knows, and another answer is an error."),
    click.option("--resolution", type=click.IntRange(min=1), metavar="INT",
                 help="Side of the model's images; the snapshot knows, and another answer is an error."),
    click.option("--x_start", type=int, metavar="INT",
                 help="First column to draw, of a model trained on patches (of latents: in their pixels)."),
    click.option("--y_start", type=int, metavar="INT", help="First row to draw, likewise."),
    click.option("--image_size", type=click.IntRange(min=1), metavar="INT",
                 help="Rows and columns to draw, likewise; may be fewer or more than were trained."),
    click.option("--embed_fq", hidden=True),
    click.option("--mask_pos", type=bool, hidden=True),
    click.option("--set", "assignments", multiple=True, metavar="sampler.OPTION=VALUE",
                 help="Any option of the sampler or of the snapshot's encoder that has no flag; may be repeated."),
    click.option("--plugins", metavar="LIST",
                 help="Code of yours that the snapshot names: modules or files, e.g. my_net.py,my_pkg.nets."),
    click.option("--precision", type=click.Choice(PRECISIONS),
                 help="Arithmetic of the network.  [default: as trained]"),
]
# fmt: on


def sampling_options(command: Callable) -> Callable:
    """Decorator that adds the flags to a click command."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command
