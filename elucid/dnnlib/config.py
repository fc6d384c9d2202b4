"""Creates objects from names and options: resolves `module:Name`, binds options to the signature, records `config`.

Defaults are defined only in constructor signatures. A component is written `{"name": "cdm", "weight": 1}`.
"""

import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from elucid.dnnlib.errors import UserError, did_you_mean
from elucid.dnnlib.plugins import Interface, installed
from elucid.dnnlib.values import described, fits, is_data, signature

_DEEPEST = 20  # components in one another on a command line


def resolve(name: str) -> Any:
    """Return the object named by `package.module:Name` or `path/to/file.py:Name`.

    Raises UserError if the module cannot be imported or has no such name.
    """
    module_name, separator, attribute = name.rpartition(":")
    if not separator or not module_name or not attribute:
        raise UserError(f"{name!r} is not of the form module:Name or file.py:Name")
    module = import_code(module_name)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise UserError(
            f"{name!r}: {module_name} has no {attribute!r}{did_you_mean(attribute, dir(module))}"
        ) from error


def import_code(name: str) -> ModuleType:
    """Import `package.module` or `path/to/file.py`; the module of a file is called `elucid_plugin_file`.

    Raises UserError with the location at which the import failed.
    """
    if not name.endswith(".py"):
        with _failures(f"{name}: cannot import it", "; is it on PYTHONPATH?"):
            return importlib.import_module(name)
    path = Path(name).resolve()
    key = plugin_name(path)
    if key in sys.modules and getattr(sys.modules[key], "__file__", None) == str(path):
        return sys.modules[key]
    if not path.is_file():
        raise UserError(f"{name}: no such file; check the path of the plugin")
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None  # since the name ends in .py
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(key)
    sys.modules[key] = module
    try:
        with _failures(f"{name}: cannot import it"):
            spec.loader.exec_module(module)
    except UserError:
        sys.modules.pop(key)
        if before is not None:
            sys.modules[key] = before
        raise
    return module


def plugin_name(path: str | Path) -> str:
    """Return the module name of a plugin file."""
    return f"elucid_plugin_{Path(path).stem}"


@contextmanager
def _failures(what: str, advice: str = ""):
    """Convert exceptions of possibly external code to a UserError with their location."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # external code may raise anything
        frames = [one for one in traceback.extract_tb(error.__traceback__) if not _is_machinery(one.filename)]
        place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else advice
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise UserError(f"{what}: {type(error).__name__}: {reason}{place}{_moved(error)}") from error


def _moved(error: Exception) -> str:
    """Return a hint for code written for version 0.1, which imports the subpackages at top level."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    moved = package in ("dnnlib", "metrics", "preparation", "torch_utils", "training")
    return f"; since version 0.2 {package} is elucid.{package}" if moved else ""


def _is_machinery(filename: str) -> bool:
    """Return whether a traceback entry is in our own import machinery, and so of no use to the user."""
    return filename == __file__ or "importlib" in filename or f"{os.sep}torch{os.sep}" in filename


def lookup(table: Mapping[str, str], name: str, kind: str, interface: Interface | None = None) -> Any:
    """Return the object of a short name (from the table or an installed package) or a `module:Name`.

    Objects not in the table must implement the interface. Raises UserError listing the known names.
    """
    if name in table:
        return resolve(table[name])
    target = resolve(name) if ":" in name else _resolve_installed(table, name, kind)
    if interface is not None:
        interface.require(target, name)
    return target


def _resolve_installed(table: Mapping[str, str], name: str, kind: str) -> Any:
    added = installed(kind)
    if name not in added:
        known = sorted({*table, *added})
        raise UserError(
            f"unknown {kind} {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}, or module:Name"
        )
    if len(added[name]) > 1:
        raise UserError(f"{kind} {name!r} means {' or '.join(added[name])}; two packages add it: use the full name")
    try:
        return resolve(added[name][0])
    except UserError as error:
        raise UserError(f"{kind} {name!r}, added by an installed package: {error}") from error


def construct(target: Any, options: Mapping[str, Any], label: str = "", **parts) -> Any:
    """Create an object from options (data) and parts (objects), and record the options in its `config`.

    `config` is {"class": "module:Name", "options": {...}} with defaults filled in. `label` names the object in errors.
    Raises UserError naming an unknown option, or the location at which the constructor failed.
    """
    bound = bind(target, options, label, parts)
    with _failures(f"{label or target.__name__} cannot be made with these options"):
        result = target(**bound, **parts)
    result.config = {"class": f"{target.__module__}:{target.__qualname__}", "options": bound}
    return result


def bind(
    target: Any, options: Mapping[str, Any], label: str = "", parts: Mapping[str, Any] | tuple = ()
) -> dict[str, Any]:
    """Return the options with defaults of the signature filled in.

    Raises UserError for an option that is unknown, missing, or not of the annotated type.
    """
    label = label or getattr(target, "__name__", str(target))
    parameters = {
        name: parameter
        for name, parameter in signature(target).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in parts
    }
    for name, value in options.items():
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise UserError(f"{label} has no option {name!r}{did_you_mean(name, parameters)}; its options: {known}")
        wanted = parameters[name].annotation
        if not fits(value, wanted):
            raise UserError(f"{label}: {name}={value!r} must be {described(wanted)}")
    bound = {}
    for name, parameter in parameters.items():
        if name in options:
            bound[name] = options[name]
        elif is_data(parameter.default):
            bound[name] = parameter.default
        elif parameter.default is not parameter.empty:
            kind = type(parameter.default).__name__
            raise UserError(f"{label}: the default of {name} is a {kind}; options are numbers, strings, lists or null")
        else:
            raise UserError(f"{label} needs the option {name!r}; set it with `set`")
    return bound


def parse_chain(text: str) -> dict:
    """`patch(cdm(edm))` -> {"name": "patch", "base": {"name": "cdm", "base": {"name": "edm"}}}.

    Raises UserError for unbalanced parentheses or an empty name.
    """
    names = text.replace(" ", "").rstrip(")").split("(")
    if len(names) > _DEEPEST:
        raise UserError(f"{text[:40]!r}... has {len(names)} names in one another; use at most {_DEEPEST}")
    if not all(names) or text.replace(" ", "") != "(".join(names) + ")" * (len(names) - 1):
        raise UserError(f"{text!r} is not a chain of names like patch(cdm(edm))")
    chain: dict = {"name": names[-1]}
    for name in reversed(names[:-1]):
        chain = {"name": name, "base": chain}
    return chain


def set_by_path(options: dict, assignment: str) -> None:
    """Apply a `part.option=value` assignment to nested options in place; the value is JSON or else a string.

    Nested components that are missing or a plain name are converted to components with options. Raises UserError for
    an unknown part.
    """
    path, separator, text = assignment.partition("=")
    keys = path.split(".")
    if not separator or not all(keys) or len(keys) > _DEEPEST:
        raise UserError(f"`set` {assignment!r} is not of the form part.option=value")
    node: Any = options
    known = keys[0] in node if len(keys) == 1 else isinstance(node.get(keys[0]), dict | list)  # a whole part may be set
    if not known:
        parts = [name for name, value in node.items() if isinstance(value, dict)]
        raise UserError(
            f"`set` {assignment}: no part {keys[0]!r}{did_you_mean(keys[0], parts)}; parts: {', '.join(parts)}"
        )
    for depth, key in enumerate(keys[:-1]):
        place = ".".join(keys[: depth + 1])
        value = (
            _component(node, key, f"`set` {assignment}: {place}")
            if isinstance(node, list)
            else node.setdefault(key, {})
        )
        if isinstance(value, str):
            value = node[key] = {"name": value}
        if not isinstance(value, dict | list) or (isinstance(value, list) and depth + 2 == len(keys)):
            raise UserError(f"`set` {assignment}: {place} is {value!r}, which has no options")
        node = value
    node[keys[-1]] = parse_value(text)


def _component(components: list, name: str, label: str) -> dict:
    """Return the component of a name in a list of them."""
    for one in components:
        if isinstance(one, dict) and one.get("name") == name:
            return one
    known = ", ".join(str(one.get("name")) for one in components if isinstance(one, dict)) or "none"
    raise UserError(f"{label}: there is none of that name; there are: {known}")


def parse_value(text: str) -> Any:
    """Parse a value as JSON (numbers, lists, true, null), or else return the string."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also of numbers with thousands of digits
        return text
