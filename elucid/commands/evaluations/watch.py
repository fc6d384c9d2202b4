"""`evaluate.py watch RUN`: scores of the snapshots of a run, as they appear."""

import json

import click

from elucid.commands.command import Command, section
from elucid.commands.flags.sampling import sample_options, sampling_flags
from elucid.commands.flags.scoring import scoring_flags
from elucid.dnnlib import cli


def _other_sampling_flags(function):
    """Add the sampling flags but for --network, which is the run."""
    function = sampling_flags()(function)
    function.__click_params__ = [flag for flag in function.__click_params__ if flag.name != "network"]
    return function


@click.command(
    "watch",
    cls=Command,
    examples=[
        "evaluate.py watch runs/00000-NAME --num=5000 --metrics=kid,fid",
        "evaluate.py watch runs/00000-NAME --once --detector=random --target=20",
    ],
)
@section(
    "Run",
    click.argument("run", metavar="DIR"),
    click.option(
        "--num", "--num-images", "num", type=cli.Count(min=2), default=1000,
        help="Samples of each snapshot, seeds 0, 1, ... (under torchrun: --num-images).  [default: 1000]",
    ),
    click.option("--once", is_flag=True, help="Score the snapshots that are there, and do not wait for others."),
    click.option(
        "--every", type=cli.FloatRange(min=0, min_open=True), default=60, metavar="SECONDS",
        help="How often to look for new snapshots.  [default: 60]",
    ),
    click.option("--target", type=float, help="Also say how many images of training it took to reach this score."),
)  # fmt: skip
@scoring_flags(
    "JSON file for the result.  [default: DIR/evaluations/watch.json]",
    "Reference from fid.py ref, or images.  [default: the run's training data]",
    "kid",
)
@_other_sampling_flags
def command(run, num, once, every, target, ref, metrics, detector, detector_weights, dest, as_json, **flags) -> None:
    """Score the snapshots of a running or finished run as they appear, oldest first, until the run has ended.

    Those that were scored in the same way before are not scored again. Without --ref the run's training images serve,
    and without --detector efflite0 if it is installed, else random.
    """
    batch, device = flags.pop("batch"), flags.pop("device")
    options = sample_options(flags)
    from elucid.api.evaluations.scoring.watch import watch  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed

    try:
        how = {"metrics": metrics, "detector": detector, "detector_weights": detector_weights, "num": num}
        how |= {"once": once, "every": every, "target": target, "dest": dest, "batch": batch, "device": device}
        result = watch(run, ref, options=options, **how)
        distributed.print0(result.text())
        distributed.print0(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
    finally:
        distributed.shutdown()
