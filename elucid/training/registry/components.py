"""Components: creates objects from descriptions `{"name": ..., option: value}` and back, including nested ones.

A constructor argument annotated with the base class of a kind (`base: Loss`, `noise: NoiseDistribution`) takes a
component of that kind, one that may be a list as well (`FeatureEncoder | list[FeatureEncoder]`) one or several. Options
are bound to constructor signatures, the only place where defaults are defined.
"""

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from elucid.dnnlib.config import construct, lookup
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.values import signature
from elucid.training.registry.interfaces import INTERFACES
from elucid.training.registry.names import DEFAULT_COMPONENTS, OPTIONS, TABLES


def split(component: Any, kind: str) -> tuple[str, dict]:
    """Return name and options of a component; a plain string is a name without options."""
    if isinstance(component, str):
        component = {"name": component}
    if not isinstance(component, dict) or not isinstance(component.get("name"), str):
        raise UserError(f'{kind} must look like {{"name": ..., option: value}}, not {component!r}')
    return component["name"], {key: value for key, value in component.items() if key != "name"}


def find(kind: str, name: str) -> Any:
    """Return the class of a short name or `module:Name`, which must implement the kind's interface."""
    return lookup(TABLES[kind], name, kind, INTERFACES.get(kind))


def component_arguments(target: Any) -> dict[str, str]:
    """Return the constructor arguments that take components, with their kinds."""
    kind_of_argument = {}
    for name, parameter in signature(target).parameters.items():
        kind = _kind_of(parameter.annotation)
        if kind is not None:
            kind_of_argument[name] = kind
    return kind_of_argument


def _kind_of(annotation: Any) -> str | None:
    if get_origin(annotation) in (Union, types.UnionType):
        choices = [choice for choice in get_args(annotation) if choice is not type(None)]
        choices = list(dict.fromkeys(get_args(one)[0] if get_origin(one) is list else one for one in choices))
        annotation = choices[0] if len(choices) == 1 else None
    for base in getattr(annotation, "__mro__", ()):
        for kind, interface in INTERFACES.items():
            # Networks and losses are nn.Modules as well; an argument annotated with nn.Module takes an external one.
            if kind != "network" and interface.is_base(base):
                return kind
    return None


def _takes_lists(target: Any, argument: str) -> bool:
    return any(get_origin(one) is list for one in get_args(signature(target).parameters[argument].annotation))


def make(component: Any, kind: str, label: str | None = None, **parts) -> Any:
    """Create the object that a component describes, with its nested components; `parts` are further arguments.

    `label` names the component in errors, by default by its kind and name. Raises UserError for unknown names and
    options, and for a missing or unexpected nested component.
    """
    name, options = split(component, kind)
    label = label or f"{kind} {name}"
    target = find(kind, name)
    options = merged(OPTIONS.get(kind, {}).get(name, {}), options)
    component_args = {
        argument: argument_kind
        for argument, argument_kind in component_arguments(target).items()
        if argument not in parts
    }
    required = {name for name, one in signature(target).parameters.items() if one.default is one.empty}
    if kind == "loss":
        _require_base(name, component_args, options)
    made = {}
    for argument, argument_kind in component_args.items():
        if options.get(argument) is not None:
            given = options.pop(argument)
        elif argument in required and argument_kind in DEFAULT_COMPONENTS:
            given = DEFAULT_COMPONENTS[argument_kind]
        else:
            continue
        if isinstance(given, dict):
            given = merged(DEFAULT_COMPONENTS.get(argument_kind, {}), given)
        of = f"{label}, {argument}" if argument_kind != "loss" else None
        if isinstance(given, list) and _takes_lists(target, argument):
            made[argument] = [make(one, argument_kind, of) for one in given]
        else:
            made[argument] = make(given, argument_kind, of)
    result = construct(target, options, label, **parts, **made)
    result.config["name"] = name
    result.config["options"] |= {
        argument: [resolved(one) for one in child] if isinstance(child, list) else resolved(child)
        for argument, child in made.items()
    }
    return result


def merged(defaults: dict, options: dict) -> dict:
    """Merge options into defaults recursively; a component with another name replaces the default one."""
    if options.get("name", defaults.get("name")) != defaults.get("name"):
        return options
    result = {**defaults, **options}
    for key, default in defaults.items():
        given = options.get(key)
        if isinstance(default, dict) and isinstance(given, dict):
            result[key] = merged(default, given)
    return result


def _require_base(name: str, component_args: dict[str, str], options: dict) -> None:
    if "base" in component_args and options.get("base") is None:
        raise UserError(f"the loss {name} wraps another loss; write for example `loss`={name}(edm)")
    if "base" in options and "base" not in component_args:
        raise UserError(f"the loss {name} does not wrap another loss; write `loss`={name}")


def resolved(made: Any) -> dict:
    """Return the component of an object with all defaults filled in, and with the object's own `metadata`."""
    return {"name": made.config["name"], **made.config["options"], **getattr(made, "metadata", {})}


def walk(options: Any) -> Iterator[dict]:
    """Yield all components in nested options, outer ones first."""
    if isinstance(options, dict):
        if isinstance(options.get("name"), str):
            yield options
        options = options.values()
    if not isinstance(options, (str, bytes)) and hasattr(options, "__iter__"):
        for item in options:
            if isinstance(item, (dict, list, tuple)):
                yield from walk(item)
