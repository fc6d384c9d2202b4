"""Code from outside: short names that installed packages add, and the refusal of what lacks an interface.

A package adds names by entry points, e.g. in its pyproject.toml: [project.entry-points."elucid.losses"].
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
"""The entry-point groups of each kind of component."""


@lru_cache
def installed(kind: str) -> dict[str, tuple[str, ...]]:
    """Names that installed packages add to a kind, each with the `module:Name` it stands for (several if they clash).

    Nothing is imported.
    """
    names: dict[str, tuple[str, ...]] = {}
    for group in GROUPS.get(kind, ()):
        for entry in importlib.metadata.entry_points(group=group):
            place = f"{entry.module}:{entry.attr}"
            names[entry.name] = tuple(sorted({place, *names.get(entry.name, ())}))
    return names


@dataclass(frozen=True)
class Interface:
    """What a class must offer: a base class, methods with the arguments they are called with, constructor arguments.

    The base may be written `module:Name`, which is imported when it is needed. `optional` methods must take these
    arguments where a class overrides them. A class that goes `in_snapshots` must be found under its own name in its
    module.
    """

    kind: str
    base: type | str = object
    methods: dict[str, tuple[str, ...]] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    in_snapshots: bool = False
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def base_class(self) -> type:
        """The base, imported."""
        if isinstance(self.base, type):
            return self.base
        module, _, name = self.base.partition(":")
        return getattr(importlib.import_module(module), name)

    def is_base(self, kind: type) -> bool:
        """Whether this class is the base; that nothing has imported yet it cannot be."""
        if isinstance(self.base, type):
            return kind is self.base
        module, _, name = self.base.partition(":")
        return getattr(sys.modules.get(module), name, None) is kind

    def require(self, target: Any, name: str) -> None:
        """Raise UserError naming what the class `target` lacks; nothing of it is called."""
        what = f"{self.kind} {name}"
        if not isinstance(target, type):
            raise UserError(f"{what} is a {type(target).__name__}, not a class; give the name of a class")
        if not issubclass(target, self.base_class):
            base = f"{self.base_class.__module__}.{self.base_class.__name__}"
            raise UserError(f"{what}: {target.__name__} is no {base}; make it a subclass")
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
                f"{what}: snapshots could not find {target.__qualname__} in {target.__module__}; "
                "define the class at the top of its module, under that name"
            )

    def _require_method(self, target: type, method: str, arguments: tuple[str, ...], what: str) -> None:
        wanted = f"{target.__name__} must define {method}({', '.join(arguments)})"
        # Not getattr: every class has a __call__, which makes its objects.
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
