"""Exponential moving averages (EMA) with one or more half-lives."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.sharding.parts import parts
from elucid.torch_utils.weights.buffers import changing_buffers
from elucid.training.ema.base import EMA
from elucid.training.preconds.base import Preconditioned
from elucid.training.types import Step


class HalflifeEMA(EMA):
    """theta_ema <- beta theta_ema + (1 - beta) theta, beta = 0.5^(images / min(halflife, rampup_ratio * nimg)).

    `halflife_mimg`: half-lives in millions of images, with one average each, named by the value. `rampup_ratio` None
    disables the ramp-up (Karras et al. 2022, appendix F.2). Raises UserError for invalid values.
    """

    def __init__(
        self, denoiser: Preconditioned, halflife_mimg: list[float] = (0.5,), rampup_ratio: float | None = 0.05
    ):
        if not halflife_mimg or min(halflife_mimg) < 0:
            raise UserError(f"halflife_mimg={list(halflife_mimg)}: half-lives must be 0 or more, e.g. `ema`=0.5")
        if rampup_ratio is not None and rampup_ratio <= 0:
            raise UserError(f"rampup_ratio={rampup_ratio} must be positive, or null for no ramp-up")
        self.halflives = {f"{value:g}": value * 1e6 for value in halflife_mimg}
        if len(self.halflives) < len(halflife_mimg):
            raise UserError(f"halflife_mimg={list(halflife_mimg)}: half-lives must differ")
        self.rampup_ratio = rampup_ratio
        super().__init__(denoiser, self.halflives)
        self._known: tuple[Preconditioned, list, dict[str, list], list[str]] | None = None

    def beta(self, name: str, step: Step) -> float:
        """Return the weight beta of the previous average after a step on `step.batch_size` images."""
        halflife = self.halflives[name]
        if self.rampup_ratio is not None:
            halflife = min(halflife, step.nimg * self.rampup_ratio)
        return 0.5 ** (step.batch_size / max(halflife, 1e-8))

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
