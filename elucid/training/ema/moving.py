"""Moving averages of weights, theta_ema <- beta theta_ema + (1 - beta) theta, all in one pass."""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from elucid.torch_utils.sharding.parts import parts
from elucid.torch_utils.weights.buffers import changing_buffers
from elucid.training.ema.base import EMA
from elucid.training.preconds.base import Preconditioned
from elucid.training.types import Step


class MovingEMA(EMA):
    """Base class of averages that differ in `beta` only."""

    def __init__(self, denoiser: Preconditioned, names: Iterable[str]):
        super().__init__(denoiser, names)
        self._known: tuple[Preconditioned, list, dict[str, list], list[str]] | None = None

    @abstractmethod
    def beta(self, name: str, step: Step) -> float:
        """Return the weight beta of the previous average after a step on `step.batch_size` images."""

    @torch.no_grad()
    def update(self, denoiser: Preconditioned, step: Step) -> None:
        """Update all averages, or the parts of this process, in one pass; buffers that may change are copied."""
        new, old = self._parameters(denoiser)
        weights = [1 - self.beta(name, step) for name in old for _ in new]
        torch._foreach_lerp_([one for average in old.values() for one in average], new * len(old), weights)
        for before, now in self._buffers(denoiser):
            before.copy_(now)

    @torch.no_grad()
    def update_if(self, stepped: bool | Tensor, denoiser: Preconditioned, step: Step) -> None:
        """Update all averages where `stepped`, which the device may know only."""
        if not isinstance(stepped, Tensor):
            super().update_if(stepped, denoiser, step)
            return
        new, old = self._parameters(denoiser)
        for name, average in old.items():
            towards = torch._foreach_sub(new, average)
            torch._foreach_mul_(towards, torch.where(stepped, 1 - self.beta(name, step), 0.0))
            torch._foreach_add_(average, towards)
        for before, now in self._buffers(denoiser):
            before.copy_(torch.where(stepped, now, before))

    def _parameters(self, denoiser: Preconditioned) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """Return the weights, and those of each average by its name; going through all modules would take longer."""
        if self._known is None or self._known[0] is not denoiser:
            old = {name: parts(average.parameters()) for name, average in self.averages.items()}
            self._known = denoiser, parts(denoiser.parameters()), old, changing_buffers(denoiser)
        _, parameters, old, _ = self._known
        return [parameter.detach() for parameter in parameters], old

    def _buffers(self, denoiser: Preconditioned) -> list[tuple[Tensor, Tensor]]:
        """Return the buffers to copy, for each average and of the denoiser; a network may have put new ones there."""
        names = self._known[3] if self._known else []
        pairs = [(average, name) for average in self.averages.values() for name in names]
        return [(average.get_buffer(name), denoiser.get_buffer(name)) for average, name in pairs]
