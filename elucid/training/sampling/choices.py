"""Which options of which component `SampleOptions` sets."""

from collections.abc import Collection
from typing import Any

from elucid.dnnlib.config import set_by_path
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.values import signature
from elucid.training.config.train_options import as_assignments
from elucid.training.config.upgrade import moved_assignment
from elucid.training.registry.components import find, make
from elucid.training.registry.names import SAMPLERS
from elucid.training.sampling.options import NOISE, SampleOptions
from elucid.training.snapshots.snapshot import check_component
from elucid.training.types import NetSpec

NUMBER_OF_STEPS = {"num_steps", "respacing"}
"""Options of a schedule of which each replaces the other."""

COMPONENTS = ("sampler", "schedule", "encoder", "guidance")
STATE_DICTS = ("network", "classifier", "guide", "upsample")
"""Models whose public state dict may need options, with the names of its own program's flags."""

PATHS = {
    "S_churn": "sampler.S_churn",
    "S_min": "sampler.S_min",
    "S_max": "sampler.S_max",
    "S_noise": "sampler.S_noise",
    "solver": "sampler.solver",
    "schedule": "sampler.process",
    "scaling": "sampler.scaling",
    "disc": "schedule.name",
    "steps": "schedule.num_steps",
    "sigma_min": "schedule.sigma_min",
    "sigma_max": "schedule.sigma_max",
    "rho": "schedule.rho",
    "respacing": "schedule.respacing",
    "eta": "sampler.eta",
    "variance": "sampler.variance",
}
"""The component option that each field of `SampleOptions` sets, unless it is None."""

SCHEDULE_OF_DISC = {"vp": "vp", "ve": "geometric", "iddpm": "iddpm", "edm": "karras"}
"""Schedules for the discretizations of EDM's ablation."""

ABLATION = ("solver", "disc", "schedule", "scaling")


def chosen_options(options: SampleOptions) -> dict[str, dict]:
    """Return the chosen options of each part, with a name if a component is selected."""
    chosen: dict[str, dict] = {part: {} for part in (*COMPONENTS, *STATE_DICTS)}
    if options.sampler or any(getattr(options, name) is not None for name in ABLATION):
        chosen["sampler"]["name"] = options.sampler or "ablation"
    for name, path in PATHS.items():
        value = getattr(options, name)
        if value is not None:
            part, _, option = path.partition(".")
            chosen[part][option] = SCHEDULE_OF_DISC[value] if name == "disc" else value
    if options.respacing is not None:
        chosen["schedule"].setdefault("name", "respaced")
    for assignment in as_assignments(options.set or ()):
        set_by_path(chosen, moved_assignment(assignment, chosen))
    for name in ("adm_preset", "checkpoint_model"):
        if getattr(options, name) is not None:
            chosen["network"][name] = getattr(options, name)
    return chosen


def chosen_noise(options: SampleOptions) -> str:
    """Return where noise is drawn. Raises UserError for another place than cpu or device."""
    if options.noise not in (None, *NOISE):
        raise UserError(f"`noise`={options.noise!r} is unknown; choose from {', '.join(NOISE)}")
    return options.noise or "device"


def require_sampler_options(options: SampleOptions, name: str) -> None:
    """Raise UserError for an option that the sampler does not have, naming those that have it."""
    if name not in SAMPLERS:
        return  # which may not be imported yet
    known = arguments_of(name)
    for option, path in PATHS.items():
        part, _, argument = path.partition(".")
        value = getattr(options, option)
        if part == "sampler" and value is not None and argument not in known:
            value = int(value) if isinstance(value, bool) else value
            having = [other for other in SAMPLERS if argument in arguments_of(other)]
            raise UserError(
                f"`{option}`={value} is an option of {' and '.join(having)}, which the sampler {name} does not have; "
                f"use `sampler`={' or '.join(having)}, or leave `{option}` out"
            )


def arguments_of(sampler: str) -> Collection[str]:
    return signature(find("sampler", sampler)).parameters


def require_variance(spec: NetSpec, variance: str | None) -> None:
    """Raise UserError for a learned variance of a network that has none."""
    if variance == "learned" and spec.out_channels != 2 * spec.image_channels:
        raise UserError(
            "`variance`=learned: the network has no channels for a variance; train with `learn_sigma`=1, or use "
            "`variance`=small or large"
        )


def own_or_chosen(kind: str, own: dict[str, Any], chosen: dict[str, dict]) -> Any:
    """Create the snapshot's sampler or schedule with the given options, or another one if it is named.

    With another sampler the schedule is reset as well, since its number of steps depends on the sampler.
    """
    given = chosen[kind]
    if "name" in given:
        return make(given, kind)
    if kind == "schedule" and "name" in chosen["sampler"]:
        return make({"name": find("sampler", chosen["sampler"]["name"]).default_schedule, **given}, kind)
    check_component(kind, own)
    if kind == "schedule" and NUMBER_OF_STEPS & given.keys():
        own = {name: value for name, value in own.items() if name not in NUMBER_OF_STEPS}
    return make({**own, **given}, kind)
