"""`evaluate.py compare "edm: --preset=demo" "cdm: --preset=demo --loss=cdm(edm)" ...`: the verdict on recipes."""

import json
import shlex

import click

from elucid.commands.command import Command, section
from elucid.commands.flags.scoring import Metrics
from elucid.dnnlib import cli
from elucid.dnnlib.errors import UserError
from elucid.metrics.measures.names import METRICS

_positive = cli.FloatRange(min=0, min_open=True)


class _Share(click.ParamType):
    """`1.3%` or `0.013`."""

    name = "share"

    def convert(self, value, param, ctx):
        from elucid.evaluation.compare.typed import share

        return value if isinstance(value, float) else share(value)


class _Tune(click.ParamType):
    """`cfg:1:3` -> ("cfg", 1.0, 3.0)."""

    name = "FLAG:LOW:HIGH"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        parts = value.split(":")
        try:
            flag, low, high = parts[0].lstrip("-"), float(parts[1]), float(parts[2])
        except (IndexError, ValueError):
            self.fail(f"{value!r} is not FLAG:LOW:HIGH, e.g. cfg:1:3", param, ctx)
        if len(parts) != 3 or not flag or not low < high:
            self.fail(f"{value!r} is not FLAG:LOW:HIGH with LOW below HIGH, e.g. cfg:1:3", param, ctx)
        return flag, low, high


@click.command(
    "compare",
    cls=Command,
    examples=[
        'evaluate.py compare "edm: --preset=demo" "cdm: --preset=demo --loss=cdm(edm)" --data=digits.zip \\',
        "    --detector=efflite0 --num=500 --outdir=cmp --seeds=10 --jobs=2",
        'evaluate.py compare "old: runs/a,runs/b" "new: runs/new-*" --ref=digits.npz --outdir=cmp',
        'evaluate.py compare --scores="A: 1.77" --scores="B: 1.82" --cv=1.3%',
    ],
)
@click.argument("recipes", nargs=-1, metavar="[RECIPE]...")
@section(
    "Recipes: a preset, quoted flags of train.py, a file of flags, or run folders; `NAME: ` before it names it",
    click.option("--data", metavar="ZIP|DIR", help="Dataset to train on."),
    click.option("--outdir", metavar="DIR", help="Folder for trainings and scores; the same command goes on there."),
    click.option(
        "--match",
        type=click.Choice(["images", "time"]),
        default="images",
        help="Train all on as many images, or for as long as the first.  [default: images]",
    ),
    click.option("--duration", type=_positive, metavar="MIMG", help="Length of a training.  [default: the first's]"),
    click.option(
        "--scores", multiple=True, metavar="TEXT", help="Scores instead of recipes: 'A: 1.77,1.79,1.80'; repeat it."
    ),
)
@section(
    "Seeds",
    click.option(
        "--seeds", type=cli.Count(), default=10, help="Trainings of a recipe; at most, if --sequential.  [default: 10]"
    ),
    click.option(
        "--sampling_seeds", type=cli.Count(), default=3, help="Blocks of images of each training.  [default: 3]"
    ),
    click.option("--seed", type=cli.Count(min=0), default=0, help="First training seed.  [default: 0]"),
)
@section(
    "Score",
    click.option("--ref", metavar="NPZ|DIR|ZIP", help="Reference from fid.py ref, or images.  [default: --data]"),
    click.option("--num", type=cli.Count(min=2), default=5000, help="Images in a block.  [default: 5000]"),
    click.option(
        "--metrics", type=Metrics(), default="fid", help=f"{', '.join(METRICS)}; the first decides.  [default: fid]"
    ),
    click.option("--detector", metavar="LIST", help="As in fid.py.  [default: the reference's]"),
    click.option("--detector-weights", metavar="FILE|URL", help="Weights to use instead of the public ones."),
    click.option("--cfg", type=float, help="Scale of classifier-free guidance."),
    click.option("--steps", type=cli.Count(), help="Sampling steps.  [default: the sampler's]"),
    click.option("--sampling", metavar="FLAGS", default="", help="Other sampling flags of fid.py, quoted."),
    click.option(
        "--tune", type=_Tune(), metavar="FLAG:LOW:HIGH", help="Choose a sampling flag for each training: cfg:1:3."
    ),
    click.option("--tune_num", type=cli.Count(min=2), default=500, help="Images to tune with.  [default: 500]"),
)
@section(
    "Verdict",
    click.option(
        "--sequential/--fixed",
        default=None,
        help="Stop as soon as the answer is settled, or train all seeds.  [default: --sequential]",
    ),
    click.option(
        "--first_look", type=cli.Count(min=2), default=3, help="Trainings before the first look.  [default: 3]"
    ),
    click.option("--alpha", type=_positive, default=0.025, help="Error of a false `different`.  [default: 0.025]"),
    click.option(
        "--beta", type=_positive, help="Error of a false `not different`.  [default: 0.025, with --fixed 0.3]"
    ),
    click.option(
        "--detect", type=_positive, default=2.0, metavar="SD", help="Gap that it is for, in deviations.  [default: 2]"
    ),
    click.option("--margin", type=_positive, metavar="FLOAT", help="Difference that would not matter."),
    click.option("--cv", type=_Share(), help="Coefficient of variation between trainings to assume, e.g. 1.3%."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object with all details as the last line."),
    click.option("--dest", metavar="JSON", help="Also write the result to this file."),
)
@section(
    "Work",
    click.option("--jobs", type=cli.Count(), default=1, help="Trainings at once.  [default: 1]"),
    click.option("--processes", type=cli.Count(), default=1, help="Processes of a training: torchrun.  [default: 1]"),
    click.option("--slurm", metavar="LIST", help="Give them to SLURM: partition=gpu,gpus_per_node=1,time=240."),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda if there is one, else cpu]"),
)
def command(recipes, cfg, steps, sampling, slurm, as_json, dest, **options) -> None:
    """Say whether recipes differ: several trainings of each, several blocks of samples of each training.

    All are compared with the first one. The last line of text is the verdict; stdout ends with the difference alone.
    """
    from elucid.api.evaluations.comparing.compare import compare  # imported late: --help and usage errors need no torch
    from elucid.dnnlib.files import require_writable
    from elucid.evaluation.trainings.slurm import options_of

    if dest is not None:
        require_writable(dest)
    try:
        flags = shlex.split(sampling)
    except ValueError as error:
        raise UserError(f"`sampling`: {error}; check its quotes") from error
    flags += [f"--{name}={value}" for name, value in (("cfg", cfg), ("steps", steps)) if value is not None]
    result = compare(recipes, sampling=flags, slurm=None if slurm is None else options_of(slurm), **options)
    if dest is not None:
        result.save(dest)
    for table in result.tables:
        click.echo(table.text())
    click.echo("\n".join([result.headline, *result.lines]))
    click.echo(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
