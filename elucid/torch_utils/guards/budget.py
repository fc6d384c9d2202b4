"""Limits the size of a network while it is built, since options from a file or flag may describe one without end."""

import math

import psutil
import torch
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits

_FACTORIES = (torch.rand, torch.randn, torch.zeros, torch.ones, torch.empty)


class Budget(TorchFunctionMode):
    """Context in which a network of more layers than the limit, or of more than `most` numbers, raises UserError.

    `most` None does not limit the numbers, for networks without memory (on the meta device).
    """

    def __init__(self, most: int | None, refusal: str):
        super().__init__()
        self.left, self.refusal, self.layers = most, refusal, 0

    def __enter__(self):
        self._hook = register_module_module_registration_hook(self._count)
        return super().__enter__()

    def __exit__(self, *error):
        self._hook.remove()
        return super().__exit__(*error)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.left is not None and function in _FACTORIES:
            size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            self.left -= math.prod(size)
            if self.left < 0:
                raise UserError(self.refusal)
        return function(*args, **kwargs)

    def _count(self, parent, name, layer) -> None:
        self.layers += 1
        if self.layers > limits.LAYERS.value:
            raise limits.LAYERS.error(f"the options describe a network of {self.layers} layers and more")


def of_this_machine() -> Budget:
    """Return the budget of a network whose weights fit into the memory of this machine."""
    return Budget(
        psutil.virtual_memory().total // 4,
        "the options describe a network whose weights are larger than the memory of this machine; make it smaller",
    )
