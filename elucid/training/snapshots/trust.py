"""Which code a file may name: a stranger's file must not choose what is run."""

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
"""Environment variable: modules (`my_pkg.nets`) and files (`nets.py`), with commas between, that snapshots may name."""


def registered_name(table: Mapping[str, str], kind: type) -> str:
    """How a file calls a class: by its short name, which outlives its module; `module:Name` if it is from outside."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, place in table.items() if place == path), path)


def trusted_class(table: Mapping[str, str], name: str, base: type) -> type:
    """The class of that name, if it is a subclass of `base` and snapshots may name it. Raises UserError otherwise."""
    target = resolve_trusted(table, name)
    if not isinstance(target, type) or not issubclass(target, base):
        raise UserError(f"the snapshot names {name!r}, which is no {base.__name__}; refused")
    return target


def resolve_trusted(table: Mapping[str, str], name: str) -> Any:
    """What a short name or `module:Name` is, if snapshots may name it: a stranger's file must not choose code to run.

    Those are the names in this program's table; of a module that this process has imported already (`trust`) or that
    the environment variable ELUCID_PLUGINS lists; and classes that an installed package registers by an entry point.
    Raises UserError otherwise, importing nothing.
    """
    if name in table:
        return resolve(table[name])
    module, _, attribute = name.rpartition(":")
    if not module:
        raise UserError(f"the snapshot names {name!r}, which this program lacks; update it")
    if module in sys.modules:
        return getattr(sys.modules[module], attribute, None)
    return registered(name) or resolve(f"{trusted(module, name)}:{attribute}")


def trust(plugins: Iterable[str]) -> None:
    """Import modules (`my_pkg.nets`) and files (`nets.py`), whose classes snapshots may name from then on."""
    for name in plugins:
        import_code(name)


def registered(name: str) -> type | None:
    """The class `module:Name`, if an installed package registers it, under this or another path."""
    package = name.partition(":")[0].partition(".")[0]
    for kind in ("network", "preconditioner", "encoder", "sampler", "schedule"):
        for place in chain.from_iterable(installed(kind).values()):
            if place.partition(":")[0].partition(".")[0] == package:
                target = resolve(place)
                if f"{target.__module__}:{target.__qualname__}" == name:
                    return target
    return None


def trusted(module: str, name: str) -> str:
    """The entry of ELUCID_PLUGINS that is this module. Raises UserError if there is none."""
    for entry in filter(None, os.environ.get(PLUGINS, "").split(",")):
        if entry == module or (entry.endswith(".py") and module == plugin_name(entry)):
            return entry
    prefix = plugin_name("")
    where = f"path/{module.removeprefix(prefix)}.py" if module.startswith(prefix) else module
    raise UserError(
        f"the snapshot names {name!r}, which is not of this program; if you trust it, "
        f"give `plugins`={where} or set {PLUGINS}={where}"
    )


def require_named(options: dict, named: Iterable[str]) -> None:
    """Raise UserError if options of a file name code that neither `named` nor ELUCID_PLUGINS does; nothing is imported.

    `named` are modules and files as the command line has them. Short names are this program's or of installed packages.
    """
    known = {_place(name) for name in [*named, *os.environ.get(PLUGINS, "").split(",")] if name}
    for component in walk(options):
        module, _, _ = component["name"].rpartition(":")
        if module and _place(module) not in known and registered(component["name"]) is None:
            raise UserError(
                f"the state names the code {component['name']!r}, which the command line does not; if you trust it, "
                f"give `plugins`={module} or set {PLUGINS}={module}"
            )


def _place(module: str) -> str:
    """A file by where it lies, a module by its name."""
    return str(Path(module).resolve()) if module.endswith(".py") else module
