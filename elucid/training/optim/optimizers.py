"""Creates optimizers by name: all of torch's, and others with the same interface."""

from collections.abc import Iterable

import torch

from elucid.dnnlib.config import bind
from elucid.dnnlib.errors import UserError
from elucid.training.registry.components import find, make, split

HOW_NOT_WHAT = ("foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay")
"""Options that select kernels or are missing in some versions of torch; recorded only if given."""

KERNELS = {"foreach", "fused", "capturable"}
"""Options that select kernels."""

FUSED = (torch.optim.Adam, torch.optim.AdamW)
"""Optimizers whose fused kernel leaves out a step by itself, from its first one on, when it is told `found_inf`."""

Named = Iterable[tuple[str, torch.nn.Parameter]]


def make_optimizer(component: dict, named_parameters: Named, fused: bool = False) -> torch.optim.Optimizer:
    """Create the optimizer described by {"name": ..., option: value}; its `config` has all defaults filled in.

    `fused` asks for the fused kernel, if there is one and no kernel is chosen, on a CPU as well. Raises UserError for
    an unknown name or option, and for values that the optimizer rejects.
    """
    name, options = split(component, "optimizer")
    betas = options.get("betas")
    if betas is not None:
        good = isinstance(betas, (list, tuple)) and len(betas) >= 2
        if not good or not all(type(beta) in (int, float) and 0 <= beta < 1 for beta in betas):
            raise UserError(f"optimizer {name}: betas={betas!r} must be two numbers from 0 to 1, e.g. [0.9, 0.999]")
        options["betas"] = [float(beta) for beta in betas]  # torch rejects [0, 0.99], where 0 is an int
    decay = bind(find("optimizer", name), options, f"optimizer {name}", ("params",)).get("weight_decay")
    groups = parameter_groups(named_parameters, decay)
    kernel = {"fused": True} if fuses(name, options, groups, fused) else {}
    optimizer = make({"name": name, **options, **kernel}, "optimizer", params=groups)
    for option in set(HOW_NOT_WHAT) - options.keys():
        optimizer.config["options"].pop(option, None)
    return optimizer


def fuses(name: str, options: dict, groups: list[dict], on_cpu: bool) -> bool:
    """Return whether to choose the fused kernel, on the CPU only `on_cpu`, as its rounding is another there."""
    chosen = {*KERNELS, "differentiable"} & options.keys()
    devices = {one.device.type for group in groups for one in group["params"]}
    return (
        not chosen
        and find("optimizer", name) in FUSED
        and not devices & ({"mps", "meta"} if on_cpu else {"cpu", "mps", "meta"})
    )


def leaves_out_steps(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer leaves out a step if its attribute `found_inf`, on its device, is 1."""
    return type(optimizer) in FUSED and all(group["fused"] for group in optimizer.param_groups)


def parameter_groups(named_parameters: Named, weight_decay: float | None) -> list[dict]:
    """Split parameters into those with weight decay and those without: biases and all with fewer than two dimensions.

    Without `weight_decay`, all are in one group in the given order.
    """
    named = list(named_parameters)
    if not weight_decay:
        return [{"params": [parameter for _, parameter in named]}]
    decays = [parameter.ndim >= 2 and not name.endswith("bias") for name, parameter in named]
    groups = []
    for wanted, decay in ((True, weight_decay), (False, 0.0)):
        own = [parameter for (_, parameter), decayed in zip(named, decays, strict=True) if decayed == wanted]
        if own:
            groups.append({"params": own, "weight_decay": decay})
    return groups
