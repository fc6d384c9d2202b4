"""Plugins: short names added by installed packages, and interface checks of external code.

A package adds names with entry points, e.g. in its pyproject.toml: [project.entry-points."elucid.losses"].
"""

import importlib
import importlib.metadata
import inspect
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from elucid.dnnlib.errors import UserError

GROUPS = {
    "loss": ("elucid.losses",),
    "network": ("elucid.networks",),
    "preconditioner": ("elucid.preconds",),
    "noise": ("elucid.noises",),
    "process": ("elucid.processes",),
    "schedule": ("elucid.schedules",),
    "sampler": ("elucid.samplers",),
    "guidance": ("elucid.guidances",),
    "posterior": ("elucid.posteriors",),
    "operator": ("elucid.operators",),
    "features": ("elucid.features",),
    "encoder": ("elucid.encoders",),
    "transform": ("elucid.transforms", "elucid.augments"),
    "dataset": ("elucid.datasets",),
    "optimizer": ("elucid.optimizers",),
    "lr_schedule": ("elucid.lr_schedules",),
    "ema": ("elucid.emas",),
    "hook": ("elucid.hooks",),
    "logger": ("elucid.loggers",),
    "detector": ("elucid.detectors",),
}
"""The entry-point group of each kind of component."""


@lru_cache
def installed(kind: str) -> dict[str, tuple[str, ...]]:
    """Return the names that installed packages add to a kind, each with its `module:Name` (several if they clash).

    Imports nothing.
    """
    names: dict[str, tuple[str, ...]] = {}
    for group in GROUPS.get(kind, ()):
        for entry in importlib.metadata.entry_points(group=group):
            place = f"{entry.module}:{entry.attr}"
            names[entry.name] = tuple(sorted({place, *names.get(entry.name, ())}))
    return names


@dataclass(frozen=True)
class Interface:
    """The interface of a component class: base class, methods with their arguments, constructor arguments.

    The base may be given as `module:Name`, which is imported lazily. `optional` methods are checked only if a class
    overrides them. A class stored `in_snapshots` must be importable from its module by its own name.
    """

    kind: str
    base: type | str = object
    methods: dict[str, tuple[str, ...]] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    in_snapshots: bool = False
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def base_class(self) -> type:
        """Import and return the base class."""
        if isinstance(self.base, type):
            return self.base
        module, _, name = self.base.partition(":")
        return getattr(importlib.import_module(module), name)

    def is_base(self, kind: type) -> bool:
        """Return whether this class is the base, without importing it."""
        if isinstance(self.base, type):
            return kind is self.base
        module, _, name = self.base.partition(":")
        return getattr(sys.modules.get(module), name, None) is kind

    def require(self, target: Any, name: str) -> None:
        """Raise UserError naming what the class `target` lacks, without calling any of its code."""
        what = f"{self.kind} {name}"
        if not isinstance(target, type):
            raise UserError(f"{what} is a {type(target).__name__}, not a class; name a class")
        if not issubclass(target, self.base_class):
            base = f"{self.base_class.__module__}.{self.base_class.__name__}"
            raise UserError(f"{what}: {target.__name__} is not a subclass of {base}")
        if inspect.isabstract(target):
            missing = sorted(getattr(target, "__abstractmethods__", ()))
            raise UserError(f"{what}: {target.__name__} must define {', '.join(missing)}")
        for method, arguments in self.methods.items():
            self._require_method(target, method, arguments, what)
        for method, arguments in self.optional.items():
            if getattr(target, method) is not getattr(self.base_class, method):
                self._require_method(target, method, arguments, what)
        accepted = inspect.signature(target).parameters if self.arguments else {}
        missing = [argument for argument in self.arguments if argument not in accepted]
        if missing:
            raise UserError(
                f"{what}: its constructor must take {', '.join(self.arguments)}; {target.__name__} lacks {missing[0]!r}"
            )
        if self.in_snapshots and getattr(sys.modules[target.__module__], target.__qualname__, None) is not target:
            raise UserError(
                f"{what}: snapshots cannot find {target.__qualname__} in {target.__module__}; "
                "define the class at the top of its module, under that name"
            )

    def _require_method(self, target: type, method: str, arguments: tuple[str, ...], what: str) -> None:
        wanted = f"{target.__name__} must define {method}({', '.join(arguments)})"
        # Not getattr, which would find type.__call__ on every class.
        owner = next((one for one in target.__mro__ if method in vars(one)), None)
        if (
            owner is None
            or owner in self.base_class.__mro__
            or getattr(vars(owner)[method], "__isabstractmethod__", False)
        ):
            raise UserError(f"{what}: {wanted}")
        function = vars(owner)[method]
        plain = not isinstance(function, (staticmethod, classmethod))
        signature = inspect.signature(function if plain else getattr(target, method))
        try:
            signature.bind(*([None] * (len(arguments) + plain)))
        except TypeError as error:
            raise UserError(f"{what}: {wanted}; its own is {method}{signature}") from error
