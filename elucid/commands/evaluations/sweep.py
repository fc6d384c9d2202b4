"""`evaluate.py sweep SNAPSHOT --ref=REF --cfg=1:4`: the best sampling options for a metric, with few samples."""

import json
from collections.abc import Callable
from typing import Any

import click

from elucid.commands.command import Command, section
from elucid.commands.flags.sampling import sample_options, sampling_flags
from elucid.commands.flags.scoring import scoring_flags
from elucid.dnnlib import cli
from elucid.evaluation.sweep import Range

NUMBERS = (click.INT.__class__, click.FLOAT.__class__, cli.Count, cli.FloatRange, click.FloatRange)


class Values(click.ParamType):
    """One value, a list `8,12,18` or a range `1:4` of another type of number or text."""

    name = "values"

    def __init__(self, single: click.ParamType):
        self.single = single

    def convert(self, value, param, ctx):
        return value if not isinstance(value, str) else self.parsed(value, ",", param, ctx)

    def parsed(self, text: str, comma: str, param, ctx) -> Any:
        low, colon, high = text.partition(":")
        if colon and self.single is not click.STRING:
            return Range(self.single.convert(low, param, ctx), self.single.convert(high, param, ctx))
        parts = [self.single.convert(part.strip(), param, ctx) for part in text.split(comma)]
        return parts if len(parts) > 1 else parts[0]


class Ends(Values):
    """Both ends of an interval, each one value, a list `0.2/0.5` or a range `1:5`: `0.2/0.5,1:5`."""

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        ends = value.split(",")
        if len(ends) != 2:
            self.fail(f"{value!r} is no interval LO,HI, in which an end may be a range 1:5 or a list 2/3/5", param, ctx)
        return [self.parsed(end, "/", param, ctx) for end in ends]


def axis_flags(function: Callable) -> Callable:
    """Add the sampling flags, which may each have several values if they are numbers or names of averages."""
    function = sampling_flags()(function)
    flags = [flag for flag in function.__click_params__ if flag.name != "network"]
    for flag in flags:
        if flag.name == "guidance_interval":
            flag.type = Ends(click.FLOAT)
        elif flag.name == "ema":
            flag.type, flag.metavar = Values(click.STRING), "NAMES"
        elif isinstance(flag.type, NUMBERS) and (flag.section in ("Sampler", "Guidance") or flag.name == "ema_std"):
            flag.type, flag.metavar = Values(flag.type), "VALUES"
    function.__click_params__ = flags
    return function


@click.command(
    "sweep",
    cls=Command,
    examples=[
        "evaluate.py sweep runs/00000-NAME --ref=images.npz --cfg=1:4 --dest=sweep.json",
        "evaluate.py sweep SNAPSHOT --ref=images.npz --steps=8,12,18 --S_churn=0,10,40 --metrics=fid,pr",
    ],
)
@section(
    "Search",
    click.argument("snapshot", metavar="PKL|DIR|URL"),
    click.option(
        "--num", "--num-images", "num", type=cli.Count(min=2), default=1000,
        help="Images of each setting in the last round (under torchrun: --num-images).  [default: 1000]",
    ),
    click.option(
        "--rounds", type=cli.Count(), default=4,
        help="Rounds: each doubles the images of the settings that are left; 1 is the full grid.  [default: 4]",
    ),
)  # fmt: skip
@scoring_flags("JSON file for the result; finished scores are kept beside it, to go on after an interruption.")
@axis_flags
def command(snapshot, num, rounds, ref, metrics, detector, detector_weights, dest, as_json, batch, device, **flags):
    """Find the sampling options with the best metric, and draw the metrics over them.

    A flag for numbers takes a list such as --steps=8,12,18 or a range such as --cfg=1:4, which is refined around its
    best value; an end of --guidance_interval too, e.g. 0.2/0.5,1:5; --ema takes a list; --ema_std=0.05:0.2 is the
    length of a power-function average. The first metric decides.
    """
    axes = {}
    for name in [name for name, value in flags.items() if isinstance(value, Range | list)]:
        value = flags[name]
        if name == "guidance_interval":
            for end, of_end in zip(("guidance_low", "guidance_high"), value, strict=True):
                axes[end] = of_end if isinstance(of_end, Range | list) else [of_end]
            if all(not isinstance(of_end, Range | list) for of_end in value):
                del axes["guidance_low"], axes["guidance_high"]
                continue
        else:
            axes[name] = value
        flags[name] = None
    if not axes:
        raise click.UsageError("nothing to sweep: give a flag several values, e.g. --cfg=1:4 or --steps=8,12,18")
    options = sample_options(flags)
    from elucid.api.evaluations.sweep import sweep  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed

    try:
        how = {"metrics": metrics, "detector": detector, "detector_weights": detector_weights, "num": num}
        how |= {"rounds": rounds, "dest": dest, "batch": batch, "device": device}
        result = sweep(snapshot, ref or None, axes, options=options, **how)
        distributed.print0(result.text())
        distributed.print0(json.dumps(result.as_dict()) if as_json else f"{result.value:.6g}")
    finally:
        distributed.shutdown()
