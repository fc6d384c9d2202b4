"""The regions of a network: its repeated blocks, which are sharded and recomputed one by one."""

from collections import Counter
from collections.abc import Iterable

from torch import nn


def regions(network: nn.Module) -> list[nn.Module]:
    """Return the regions of a network in order, none inside another: what its method `regions` says, if it has one.

    Otherwise its outermost blocks: modules with layers that have weights, of a class outside torch that occurs twice.
    """
    own = getattr(network, "regions", None)
    if own is not None:
        return list(own())
    counts = Counter(type(module) for module in network.modules() if _is_block(module))
    return list(_outermost(network, {kind for kind, count in counts.items() if count > 1}))


def _outermost(module: nn.Module, kinds: set[type]) -> Iterable[nn.Module]:
    for child in module.children():
        if type(child) in kinds:
            yield child
        else:
            yield from _outermost(child, kinds)


def _is_block(module: nn.Module) -> bool:
    outside = not type(module).__module__.startswith("torch.")
    return outside and any(next(child.parameters(), None) is not None for child in module.children())
