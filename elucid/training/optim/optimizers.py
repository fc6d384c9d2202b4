"""Optimizers by name, on the parameters of a network: all of torch's, and others of their interface."""

from collections.abc import Iterable

import torch

from elucid.dnnlib.config import bind
from elucid.dnnlib.errors import UserError
from elucid.training.registry.components import find, make, split

HOW_NOT_WHAT = ("foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay")
"""Options of torch's classes that choose kernels or that other versions of torch lack: recorded only where given."""

Named = Iterable[tuple[str, torch.nn.Parameter]]


def make_optimizer(component: dict, named_parameters: Named) -> torch.optim.Optimizer:
    """The optimizer that {"name": ..., option: value} describes; its `config` has every default filled in.

    Raises UserError for an unknown name, and for options that the optimizer lacks or refuses.
    """
    name, options = split(component, "optimizer")
    betas = options.get("betas")
    if betas is not None:
        if not isinstance(betas, (list, tuple)) or len(betas) < 2:
            raise UserError(f"optimizer {name}: betas={betas!r}; betas are two numbers, e.g. [0.9, 0.999]")
        options["betas"] = [float(beta) for beta in betas]  # torch refuses [0, 0.99], where 0 is no float
    decay = bind(find("optimizer", name), options, f"optimizer {name}", ("params",)).get("weight_decay")
    optimizer = make({"name": name, **options}, "optimizer", params=parameter_groups(named_parameters, decay))
    for option in set(HOW_NOT_WHAT) - options.keys():
        optimizer.config["options"].pop(option, None)
    return optimizer


def parameter_groups(named_parameters: Named, weight_decay: float | None) -> list[dict]:
    """Weights that decay, and without decay what scales or shifts: biases and all of fewer than two dimensions.

    Without `weight_decay` they are one group, in the given order.
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
