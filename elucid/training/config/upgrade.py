"""Upgrades option paths of older states, snapshots and command lines to the present ones."""

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
"""Old paths and their new ones."""

VALUES = {"sampler.discretization": {"edm": "karras", "ve": "geometric"}}
"""Old values and their new ones, by old path."""

NEW_PARTS = {
    "transforms": [],
    "lr_schedule": {"name": "constant"},
    "sampler": {"name": "edm"},
    "schedule": {"name": "karras"},
    "hooks": [],
    "loggers": [],
}
"""Options that format 1 lacked, with the values it implied."""

_NOISE_OPTIONS = {
    "edm": ("P_mean", "P_std"),
    "vp": ("beta_d", "beta_min", "epsilon_t"),
    "ve": ("sigma_min", "sigma_max"),
}
_IN_LOSS = re.compile(r"(loss(?:\.base)*)\.(\w+)")


def moved(path: str, options: dict) -> str:
    """Return the present path of an option; `options` determine which loss it belongs to."""
    match = _IN_LOSS.fullmatch(path)
    if match:
        component = look_up(options, match[1])
        name = component.get("name") if isinstance(component, dict) else None
        if match[2] in _NOISE_OPTIONS.get(name, ()):
            return f"{match[1]}.noise.{match[2]}"
    return MOVED.get(path, path)


def moved_assignment(assignment: str, options: dict) -> str:
    """Return a `part.option=value` with the present path and value."""
    path, separator, value = assignment.partition("=")
    return f"{moved(path, options)}{separator}{VALUES.get(path, {}).get(value, value)}"


def look_up(options: Any, path: str) -> Any:
    """Return the value at a dotted path in nested options, or None."""
    for key in path.split("."):
        options = options.get(key) if isinstance(options, dict) else None
    return options


def upgraded(options: dict) -> dict:
    """Convert the options of a format 1 state to the present format."""
    result = {**NEW_PARTS, **options}
    result["ema"] = {"name": "halflife", **result.get("ema", {})}
    for part in ("optimizer", "loss"):
        result[part] = _without_moved(part, result.get(part, {}), options, result)
    return result


def _without_moved(path: str, component: dict, options: dict, result: dict) -> dict:
    """Return the component without its moved options, which are added to `result` at their new paths."""
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
