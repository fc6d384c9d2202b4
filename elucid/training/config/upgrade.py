"""Options that have moved: what older states, snapshots and command lines call them, and where they are now."""

import re
from typing import Any

MOVED = {
    "optimizer.lr_rampup_kimg": "lr_schedule.warmup_kimg",
    "optimizer.lr_rampdown": "lr_schedule.cooldown",
    "sampler.num_steps": "schedule.num_steps",
    "sampler.sigma_min": "schedule.sigma_min",
    "sampler.sigma_max": "schedule.sigma_max",
    "sampler.rho": "schedule.rho",
    "sampler.schedule": "sampler.process",
    "sampler.discretization": "schedule.name",
}
"""Old paths and new ones."""

VALUES = {"sampler.discretization": {"edm": "karras", "ve": "geometric"}}
"""Values that are called otherwise, too."""

NEW_PARTS = {
    "transforms": [],
    "lr_schedule": {"name": "constant"},
    "sampler": {"name": "edm"},
    "schedule": {"name": "karras"},
    "hooks": [],
    "loggers": [],
}
"""What format 1 did not have, as it was then."""

_NOISE_OPTIONS = {
    "edm": ("P_mean", "P_std"),
    "vp": ("beta_d", "beta_min", "epsilon_t"),
    "ve": ("sigma_min", "sigma_max"),
}
_IN_LOSS = re.compile(r"(loss(?:\.base)*)\.(\w+)")


def moved(path: str, options: dict) -> str:
    """The present path of an option; `options` tell which loss it belongs to."""
    match = _IN_LOSS.fullmatch(path)
    if match:
        component = look_up(options, match[1])
        name = component.get("name") if isinstance(component, dict) else None
        if match[2] in _NOISE_OPTIONS.get(name, ()):
            return f"{match[1]}.noise.{match[2]}"
    return MOVED.get(path, path)


def moved_assignment(assignment: str, options: dict) -> str:
    """A `part.option=value` with the present path."""
    path, separator, value = assignment.partition("=")
    return f"{moved(path, options)}{separator}{VALUES.get(path, {}).get(value, value)}"


def look_up(options: Any, path: str) -> Any:
    """The value at a dotted path in nested options, or None."""
    for key in path.split("."):
        options = options.get(key) if isinstance(options, dict) else None
    return options


def upgraded(options: dict) -> dict:
    """The options of a state of format 1 with every option in its present place."""
    result = {**NEW_PARTS, **options}
    result["ema"] = {"name": "halflife", **result.get("ema", {})}
    for part in ("optimizer", "loss"):
        result[part] = _without_moved(part, result.get(part, {}), options, result)
    return result


def _without_moved(path: str, component: dict, options: dict, result: dict) -> dict:
    """The component without what has moved out of it, which is laid where it belongs."""
    kept: dict[str, Any] = {}
    for key, value in component.items():
        place = moved(f"{path}.{key}", options)
        if place == f"{path}.{key}":
            kept[key] = _without_moved(place, value, options, result) if key == "base" else value
        elif place.startswith(f"{path}."):
            kept.setdefault("noise", {})[key] = value
        else:
            part, _, option = place.partition(".")
            result[part] = {"name": "constant", **result.get(part, {}), option: value}
    return kept
