"""Names to objects: `module:Name` is resolved, options are bound against the signature, the recipe is kept.

Constructor signatures are the only home of defaults. A component is written `{"name": "cdm", "weight": 1}`.
Read next: `training/build.py`.
"""

import difflib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib.errors import UserError


def resolve(name: str) -> Any:
    """The object that `package.module:Name` or `path/to/file.py:Name` names.

    Raises UserError if the module cannot be imported or has no such name.
    """
    module_name, separator, attribute = name.rpartition(":")
    if not separator or not module_name or not attribute:
        raise UserError(f"{name!r} is not of the form module:Name or file.py:Name")
    module = _import_file(module_name) if module_name.endswith(".py") else _import_module(module_name, name)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise UserError(f"{name!r}: {module_name} has no {attribute!r}{_hint(attribute, dir(module))}") from error


def _import_module(module_name: str, name: str):
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{name!r}: cannot import {module_name}: {error}; is it on PYTHONPATH?") from error


def _import_file(file_name: str):
    path = Path(file_name).resolve()
    key = f"elucid_plugin_{path.stem}"
    if key in sys.modules and getattr(sys.modules[key], "__file__", None) == str(path):
        return sys.modules[key]
    if not path.is_file():
        raise UserError(f"{file_name}: no such file; check the path of the plug-in")
    spec = importlib.util.spec_from_file_location(key, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError, AttributeError) as error:
        del sys.modules[key]
        raise UserError(f"{file_name}: cannot import it: {type(error).__name__}: {error}") from error
    return module


def lookup(table: Mapping[str, str], name: str, kind: str) -> Any:
    """Resolve a short name through a table of names, or a `module:Name` as it is.

    Raises UserError that lists the known names.
    """
    if name in table:
        return resolve(table[name])
    if ":" in name:
        return resolve(name)
    raise UserError(f"unknown {kind} {name!r}{_hint(name, table)}; known: {', '.join(sorted(table))}, or module:Name")


def construct(target: Any, options: Mapping[str, Any], what: str = "", **parts) -> Any:
    """Call a class with options (data) and parts (objects), and keep the recipe of the former on the result.

    The object's `recipe` is {"class": "module:Name", "options": {...}} with defaults filled in.
    Raises UserError naming an option that the signature lacks.
    """
    bound = bind(target, options, what, parts)
    result = target(**bound, **parts)
    result.recipe = {"class": f"{target.__module__}:{target.__qualname__}", "options": bound}
    return result


def bind(
    target: Any, options: Mapping[str, Any], what: str = "", parts: Mapping[str, Any] | tuple = ()
) -> dict[str, Any]:
    """Options with the defaults of the signature filled in; UserError for an unknown or a missing one."""
    what = what or getattr(target, "__name__", str(target))
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in parts
    }
    for name in options:
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise UserError(f"{what} has no option {name!r}{_hint(name, parameters)}; its options: {known}")
    bound = {}
    for name, parameter in parameters.items():
        if name in options:
            bound[name] = options[name]
        elif parameter.default is not parameter.empty:
            bound[name] = parameter.default
        else:
            raise UserError(f"{what} needs the option {name!r}; give it with --set")
    return bound


def parse_chain(text: str) -> dict:
    """`patch(cdm(edm))` -> {"name": "patch", "base": {"name": "cdm", "base": {"name": "edm"}}}.

    Raises UserError for unbalanced parentheses or an empty name.
    """
    names = text.replace(" ", "").rstrip(")").split("(")
    if not all(names) or text.replace(" ", "") != "(".join(names) + ")" * (len(names) - 1):
        raise UserError(f"{text!r} is no chain of names like patch(cdm(edm))")
    chain: dict = {"name": names[-1]}
    for name in reversed(names[:-1]):
        chain = {"name": name, "base": chain}
    return chain


def set_by_path(options: dict, assignment: str) -> None:
    """Apply one `part.option=value` to nested options, in place; the value is JSON, else a string.

    Raises UserError if there is no such part.
    """
    path, separator, text = assignment.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        raise UserError(f"--set {assignment!r} is not of the form part.option=value")
    node = options
    for depth, key in enumerate(keys[:-1]):
        if not isinstance(node.get(key), dict):
            parts = [name for name, value in node.items() if isinstance(value, dict)]
            place = ".".join(keys[: depth + 1])
            raise UserError(f"--set {assignment}: no part {place!r}{_hint(key, parts)}; parts: {', '.join(parts)}")
        node = node[key]
    node[keys[-1]] = parse_value(text)


def parse_value(text: str) -> Any:
    """JSON where it is JSON (numbers, lists, true, null), else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _hint(name: str, known) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
