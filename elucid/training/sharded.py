"""A run whose weights, gradients, moments and averages are cut into parts, one for each process (`--shard`)."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from elucid.torch_utils import distributed
from elucid.torch_utils.sharding.modules import forget_weights, shard, take_weights
from elucid.torch_utils.sharding.parts import set_tensors, whole
from elucid.training.ema.base import EMA
from elucid.training.networks.regions import regions
from elucid.training.objective import Objective
from elucid.training.optim.phase import PhaseOptimizer
from elucid.training.preconds.base import Preconditioned


class ShardedRun:
    """Shards an objective in place, and gathers averages for those who need them whole: hooks and snapshots.

    Each region of a network is a unit of FSDP2, which is gathered when it computes and given back; what is left, such
    as the embedding and the loss's own parameters, is one more. Each `group` of processes has all parts. Regions are
    gathered in bf16 if the network computes in it: a layer in one casts its weights to the type of its input.
    """

    def __init__(self, objective: Objective, device: torch.device, group: int):
        denoiser = objective.denoiser
        weights = take_weights(objective)
        self.blank = copy.deepcopy(denoiser)
        models = [one.model for one in objective.modules() if isinstance(one, Preconditioned)]
        units = [region for model in models for region in regions(model)]
        bf16 = denoiser.compute_dtype == torch.bfloat16
        shard(objective, weights, units, device, group, torch.bfloat16 if bf16 else None)
        self.objective, self.denoiser = objective, denoiser
        self.averages: dict[str, Preconditioned] = {}

    def placed(self, optimizers: dict[str, PhaseOptimizer]) -> dict[str, Tensor]:
        """Return tensors that are sharded as those of a state are to be, by the names of `states.fitted`."""
        found = {f"objective.{name}": one for name, one in self.objective.state_dict().items()}
        for average, denoiser in self.ema.averages.items():
            found |= {f"ema.{average}.{name}": one for name, one in denoiser.state_dict().items()}
        for phase, one in optimizers.items():
            parameters = [parameter for group in one.optimizer.param_groups for parameter in group["params"]]
            found |= {f"optimizers.{phase}.state.{index}": one for index, one in enumerate(parameters)}
        return found

    def stand_in(self) -> Preconditioned:
        """Return a copy of the denoiser with the parts of this process, which unlike it can be copied, for an EMA."""
        one = copy.deepcopy(self.blank)
        set_tensors(one, self.denoiser, torch.clone, torch.clone)
        return one

    def adopt(self, ema: EMA) -> None:
        """Make denoisers without weights for the averages, which `gathered` fills."""
        self.ema = ema
        self.averages = {name: copy.deepcopy(self.blank).eval().requires_grad_(False) for name in ema.averages}

    @contextmanager
    def gathered(self, name: str, on_main: bool = False) -> Iterator[None]:
        """Fill `averages[name]`, on all processes or the main one only, and empty it. All must call it together."""
        self._fill(self.averages[name], name, keep=not on_main or distributed.is_main())
        try:
            yield
        finally:
            forget_weights(self.averages[name])

    def on_host(self) -> dict[str, Preconditioned]:
        """Return copies of all averages, on the host of the main process. All processes must call it together."""
        copies = {name: copy.deepcopy(one) for name, one in self.averages.items()}
        for name, one in copies.items():
            self._fill(one, name, keep=distributed.is_main(), device=torch.device("cpu"))
        return copies if distributed.is_main() else {}

    def _fill(self, target: Preconditioned, name: str, keep: bool, device: torch.device | None = None) -> None:
        def gather(parameter: Tensor) -> Tensor:
            full = whole(parameter)  # one at a time, so that no device needs room for more than it keeps
            return full.to(device or full.device) if keep else full.to("meta")

        set_tensors(target, self.ema.averages[name], gather, lambda buffer: buffer.to(device or buffer.device))
