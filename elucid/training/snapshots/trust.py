"""Decides which code a file may refer to, so that untrusted files cannot run arbitrary code."""

import os
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from elucid.dnnlib.config import import_code, plugin_name, resolve
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.plugins import installed
from elucid.training.registry.components import walk

PLUGINS = "ELUCID_PLUGINS"
"""Environment variable: comma-separated modules (`my_pkg.nets`) and files (`nets.py`) that snapshots may refer to."""


def name_in_files(table: Mapping[str, str], target: type) -> str:
    """Return the name under which files store a class: its short name, or `module:Name` if it is external."""
    path = f"{target.__module__}:{target.__qualname__}"
    return next((name for name, place in table.items() if place == path), path)


def load_class(table: Mapping[str, str], name: str, base: type) -> type:
    """Return the class that a snapshot names. Raises UserError if it is not allowed or not a subclass of `base`."""
    target = load_object(table, name)
    if not isinstance(target, type) or not issubclass(target, base):
        raise UserError(f"the snapshot names {name!r}, which is not a subclass of {base.__name__}; refused")
    return target


def load_object(table: Mapping[str, str], name: str) -> Any:
    """Return the object of a short name or `module:Name` from a snapshot, if it is allowed.

    Names are allowed if they are in our own table, in a module that is already imported (see `import_plugins`) or
    listed in the environment variable ELUCID_PLUGINS, or registered by an installed package as an entry point. Raises
    UserError otherwise, without importing anything.
    """
    if name in table:
        return resolve(table[name])
    module, _, attribute = name.rpartition(":")
    if not module:
        raise UserError(f"the snapshot names {name!r}, which does not exist in this version; update the program")
    if module in sys.modules:
        return getattr(sys.modules[module], attribute, None)
    return entry_point_class(name) or resolve(f"{allowed_plugin(module, name)}:{attribute}")


def import_plugins(plugins: Iterable[str]) -> None:
    """Import modules (`my_pkg.nets`) and files (`nets.py`), so that snapshots may refer to their classes."""
    for name in plugins:
        import_code(name)


def entry_point_class(name: str) -> type | None:
    """Return the class `module:Name` if an installed package registers it, under this or another path, else None."""
    package = name.partition(":")[0].partition(".")[0]
    for kind in ("network", "preconditioner", "encoder", "sampler", "schedule"):
        for place in chain.from_iterable(installed(kind).values()):
            if place.partition(":")[0].partition(".")[0] == package:
                target = resolve(place)
                if f"{target.__module__}:{target.__qualname__}" == name:
                    return target
    return None


def allowed_plugin(module: str, name: str) -> str:
    """Return the entry of ELUCID_PLUGINS that allows this module. Raises UserError if there is none."""
    for entry in filter(None, os.environ.get(PLUGINS, "").split(",")):
        if entry == module or (entry.endswith(".py") and module == plugin_name(entry)):
            return entry
    prefix = plugin_name("")
    where = f"path/{module.removeprefix(prefix)}.py" if module.startswith(prefix) else module
    raise UserError(
        f"the snapshot names {name!r}, which is external code; if you trust it, "
        f"give `plugins`={where} or set {PLUGINS}={where}"
    )


def require_named(options: dict, named: Iterable[str]) -> None:
    """Raise UserError if a file's options use code that neither `named` nor ELUCID_PLUGINS lists; imports nothing.

    `named` are modules and files from the command line. Short names, built in or from installed packages, are allowed.
    """
    known = {_place(name) for name in [*named, *os.environ.get(PLUGINS, "").split(",")] if name}
    for name in code_names(options):
        module, _, _ = name.rpartition(":")
        if module and _place(module) not in known and entry_point_class(name) is None:
            raise UserError(
                f"the state uses the code {name!r}, not named on the command line; if you trust it, "
                f"give `plugins`={module} or set {PLUGINS}={module}"
            )


def code_names(options: dict) -> list[str]:
    """Return the names of all components in options, and of the detector that scores the run."""
    detector = (options.get("eval") or {}).get("detector")
    return [*(component["name"] for component in walk(options)), *([str(detector)] if detector else [])]


def _place(module: str) -> str:
    """Return the absolute path of a file, or the name of a module."""
    return str(Path(module).resolve()) if module.endswith(".py") else module
