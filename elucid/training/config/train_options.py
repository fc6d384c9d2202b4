"""The flags of `elucid train` as a dataclass, with defaults and presets."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.values import component_name, images_in, repr_of_set, whole_images
from elucid.training.config.presets.table import PRESETS
from elucid.training.config.settings import LoopOptions

_LOOP = LoopOptions()

DEFAULTS: dict[str, Any] = {
    "cond": False,
    "train_on_latents": False,
    "xflip": False,
    "label_dropout": 0.0,
    "cache": "1",
    "workers": 1,
    "augment": 0.12,
    "arch": "ddpmpp",
    "precond": "edm",
    "optimizer": "adam",
    "lr": 1e-3,
    "lr_schedule": "constant",
    "batch": _LOOP.batch_size,
    "precision": _LOOP.precision,
    "transforms": (),
    "hooks": (),
    "loggers": (),
    "set": (),
}
"""Defaults of flags that neither the command line nor the preset sets; others default to the component's own."""

PART_OF = {
    "arch": ("network", ("cbase", "cres", "dropout", "implicit_mlp")),
    "optimizer": ("optimizer", ("lr",)),
    "lr_schedule": ("lr_schedule", ()),
    "precond": ("precond", ("beta_schedule", "diffusion_steps")),
    "loss": (
        "loss",
        ("martingale_lambda", "martingale_steps", "patch", "real_p", "progressive", "learn_sigma", "teacher"),
    ),
}
"""The component that a flag selects, and the flags that are options of it."""

UNITS = {"duration": 10**6, "batch": 1, "batch_gpu": 1, "tick": 1000, "milestones": 1000, "ema": 10**6}
"""Flags that are numbers of images, and their units; texts such as `2Ki` are converted."""

COMPONENTS = {*PART_OF}
COMPONENT_LISTS = {"transforms", "hooks", "loggers"}


@dataclass(kw_only=True, repr=False)
class TrainOptions:
    """Options of a training run, named like the flags of `train.py`; None means the preset's value or the default.

    Units: `duration` is in millions of images, `tick` and `milestones` in thousands of images, `snap` and `dump` in
    ticks, `ema` a half-life, or several, in millions of images, `time_limit` in seconds, or like "3h50m"; `eval` is
    e.g. "5k@25", 5000 images every 25 ticks. All of them but the last two, and `batch`, may also be texts such as
    "2Ki", "1.5Mi", "2Gi" (or k, M, G): so many images. A component
    (`arch`, `precond`, `loss`, `optimizer`, `lr_schedule`, `transforms`, `hooks`, `loggers`) is a name such as `"edm"`
    or `"mine.py:MyLoss"`, or a class of a module or plugin file; a class of a notebook cell must be written into a
    file, so that other processes find it when the run is resumed. `set` sets any other option by its path, e.g.
    `set={"network.num_blocks": 2, "loss.sigma": 0.3}`. See `train.py --help` for all options.
    """

    data: str | os.PathLike | None = None
    outdir: str | os.PathLike | None = None
    preset: str | None = None
    cond: bool | None = None
    train_on_latents: bool | None = None
    xflip: bool | None = None
    label_dropout: float | None = None
    cache: str | None = None
    prefetch: int | None = None
    workers: int | None = None
    transforms: Sequence[str | type] | None = None
    augment: float | None = None
    lowres: int | None = None
    lowres_noise: float | None = None
    cond_images: str | os.PathLike | None = None
    cond_enlarge: bool | None = None
    cond_dropout: float | None = None
    arch: str | type | None = None
    cbase: int | None = None
    cres: Sequence[int] | None = None
    dropout: float | None = None
    implicit_mlp: bool | None = None
    precond: str | type | None = None
    beta_schedule: str | None = None
    diffusion_steps: int | None = None
    learn_sigma: bool | None = None
    loss: str | type | None = None
    teacher: str | os.PathLike | None = None
    martingale_lambda: float | None = None
    martingale_steps: int | None = None
    patch: bool | None = None
    real_p: float | None = None
    progressive: bool | None = None
    duration: float | str | None = None
    batch: int | str | None = None
    batch_gpu: int | str | None = None
    optimizer: str | type | None = None
    lr: float | None = None
    lr_schedule: str | type | None = None
    clip: float | None = None
    ema: float | str | Sequence[float | str] | None = None
    seed: int | None = None
    transfer: str | os.PathLike | None = None
    adm_preset: str | None = None
    checkpoint_model: str | None = None
    resume: str | os.PathLike | None = None
    precision: str | None = None
    fp16: bool | None = None
    ls: float | None = None
    compile: bool | None = None
    shard: int | bool | None = None
    checkpointing: bool | None = None
    bench: bool | None = None
    deterministic: bool | None = None
    device: str | None = None
    tick: float | str | None = None
    snap: int | str | None = None
    dump: int | str | None = None
    keep_snapshots: int | None = None
    keep_states: int | None = None
    milestones: float | str | None = None
    on_full_disk: str | None = None
    max_bad_steps: int | None = None
    time_limit: str | float | None = None
    heldout: str | os.PathLike | None = None
    heldout_cond_images: str | os.PathLike | None = None
    eval: str | None = None
    hooks: Sequence[str | type] | None = None
    loggers: Sequence[str | type] | None = None
    plugins: str | Sequence[str] | None = None
    desc: str | None = None
    nosubdir: bool | None = None
    set: Mapping[str, Any] | Sequence[str] | None = None

    def __repr__(self) -> str:
        return repr_of_set(self)

    def given(self) -> dict[str, Any]:
        """Return the options that were set explicitly, components by their names.

        Raises UserError for a component that cannot be named.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in values.items()}
        given = {name: value for name, value in values.items() if value is not None}
        for name in given.keys() & COMPONENTS:
            given[name] = component_name(name, given[name])
        for name in given.keys() & COMPONENT_LISTS:
            if isinstance(given[name], str) or not isinstance(given[name], Sequence):
                raise UserError(f"`{name}`={given[name]!r} is not a list; write `{name}`=[...]")
            given[name] = [component_name(name, one) for one in given[name]]
        return given

    def flags(self) -> dict[str, Any]:
        """Return all options: the explicit value, else the preset's, else the default, else None.

        Raises UserError for an unknown preset.
        """
        if self.preset is not None and self.preset not in PRESETS:
            raise UserError(f"`preset`={self.preset} is unknown; choose from {', '.join(sorted(PRESETS))}")
        given = self.given()
        preset = applicable_preset(PRESETS.get(self.preset or "", {}), given)
        assignments = [*preset["set"], *as_assignments(given.get("set", ()))]
        flags = {**dict.fromkeys(field.name for field in fields(self)), **DEFAULTS, **preset, **given}
        flags["ema"] = [flags["ema"]] if isinstance(flags["ema"], int | float | str) else flags["ema"]
        in_units(flags, given)
        flags["cres"] = flags["cres"] and list(flags["cres"])
        plugins = flags["plugins"] or ()
        flags["plugins"] = list(filter(None, plugins.split(","))) if isinstance(plugins, str) else list(plugins)
        return {**flags, "set": assignments}


def in_units(flags: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Convert texts such as `2Ki` in place: to each flag's unit, and `snap` and `dump` to ticks.

    Raises UserError for a text that is no number, and for a `given` interval that is not a whole number of ticks.
    """
    for name, unit in UNITS.items():
        value = flags[name]
        try:
            if name == "ema" and value is not None:
                flags[name] = [images_in(one, unit) for one in value]
            elif (name, value) != ("batch_gpu", "auto"):
                flags[name] = images_in(value, unit)
        except UserError as error:
            raise UserError(f"`{name}`={value}: {error}") from error
    for name in ("snap", "dump"):
        value = flags[name]
        try:
            images = whole_images(value) if isinstance(value, str) else None
            flags[name] = images_in(value) if images is None else value
        except UserError as error:
            raise UserError(f"`{name}`={value}: {error}") from error
        if images is not None:
            tick = math.ceil((flags["tick"] or _LOOP.tick_kimg) * 1000)
            if name in given and images % max(tick, 1):
                raise UserError(f"`{name}`={value} is not a multiple of `tick`, {tick} images; set `tick`=128Ki, too")
            flags[name] = max(round(images / max(tick, 1)), 1)


def as_assignments(values: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Convert a mapping from paths to values to `part.option=value` strings."""
    if isinstance(values, Mapping):
        return [f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in values.items()]
    return list(values)


def applicable_preset(preset: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a preset that still applies, always with a list `set`.

    If an external component replaces one of the preset's, the options of that do not apply; nor do those of the process
    with another preconditioner, of the loss with another loss, of averages by another law with half-lives, or of the
    encoder of latents without them.
    """
    result = {**preset, "set": list(preset.get("set", ()))}
    own = as_assignments(given.get("set", ()))
    for flag, (part, options) in PART_OF.items():
        named = [one.partition("=")[2] for one in own if one.startswith(f"{part}.name=")]
        name = named[-1] if named else given.get(flag, "")
        if ":" in str(name):
            result = without(result, options, part)
    if any(one.startswith("ema.name=") for one in own):
        result = without(result, ("ema",), "ema")
    if "precond" in given and given["precond"] != preset.get("precond"):
        result = without(result, (*PART_OF["precond"][1], "learn_sigma"), "precond", "schedule", "sampler", "loss")
    if "loss" in given and given["loss"] != preset.get("loss"):
        result = without(result, (), "loss")
        brought = ("schedule.levels=", "sampler.sigma_end=")  # of the sampler that a loss brings
        result["set"] = [one for one in result["set"] if not one.startswith(brought)]
    if "ema" in given and any(one.startswith("ema.name=") for one in result["set"]):
        result = without(result, (), "ema")
    if given.get("train_on_latents") in (0, False):
        result = without(result, (), "encoder")
    return result


def without(preset: dict[str, Any], options: Sequence[str], *parts: str) -> dict[str, Any]:
    """Return a preset without some options, and without what it sets in these parts."""
    kept = {option: value for option, value in preset.items() if option not in options}
    return {**kept, "set": [one for one in kept["set"] if one.partition(".")[0] not in parts]}
