"""The optimizer of one phase of a loss, with its learning-rate schedule, clipping and the check of the gradients."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.optim.schedules import LRSchedule
from elucid.training.types import Step

SMALLEST_SCALE = 2**-16
"""Gradients that overflow at a loss scale as small as this one are not fp16's fault."""


class PhaseOptimizer:
    """What the loop steps in one phase: an optimizer at the schedule's rate, on gradients known to be finite.

    `named_parameters` are the phase's, as (name, parameter); `max_grad_norm` bounds the norm of all their gradients
    together, None does not; `loss` is what messages call the loss, by default the phase. `lr` and `grad_norm` (before
    clipping, not synchronised) are those of the last step. Raises UserError for an optimizer without a rate.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: LRSchedule,
        named_parameters: list[tuple[str, torch.nn.Parameter]],
        scaler: torch.amp.GradScaler,
        max_grad_norm: float | None = None,
        phase: str = "main",
        loss: str | None = None,
    ):
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise UserError(f"max_grad_norm={max_grad_norm} must be above 0, or null for no clipping")
        if any(not isinstance(group.get("lr"), float | int) for group in optimizer.param_groups):
            name = type(optimizer).__name__
            raise UserError(f"optimizer {name} has no learning rate `lr` as a number in its parameter groups; set one")
        self.optimizer, self.schedule, self.scaler = optimizer, schedule, scaler
        self.named_parameters = list(named_parameters)
        self.max_grad_norm, self.phase, self.loss = max_grad_norm, phase, loss or phase
        # Not from a state: a run that is resumed with another rate trains with that.
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.lr = float(self.base_lrs[0])
        self.grad_norm: Tensor | None = None

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def set_lr(self, step: Step) -> None:
        """Set the learning rates of this step."""
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.schedule.rate(base, step)
        self.lr = self.optimizer.param_groups[0]["lr"]

    def step_if_finite(self, step: Step) -> bool:
        """Step and return True; False if fp16 overflowed: the step is left out, and `scaler.update` lowers the scale.

        Raises UserError if a gradient is not finite for another reason, or if the network gets none at all.
        """
        self.scaler.unscale_(self.optimizer)
        named = [(name, p.grad) for name, p in self.named_parameters if p.grad is not None]
        self._require_gradient()
        grads = [grad for _, grad in named]
        norms = torch.stack(torch._foreach_norm(grads))
        self.grad_norm = torch.linalg.vector_norm(norms)
        above = self.grad_norm > self.max_grad_norm if self.max_grad_norm else torch.zeros_like(norms[0]).bool()
        finite, clip = torch.stack([norms.isfinite().all(), above]).tolist()  # the one synchronisation
        if not finite:
            if self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE:
                return False
            name = named[int(norms.isfinite().logical_not().nonzero()[0])][0]
            raise UserError(
                f"gradient of {name} is not finite at {step.nimg / 1000:.1f} kimg; lower `lr`, use `precision`=bf16 or "
                "fp32, or check the loss"
            )
        if clip:
            torch._foreach_mul_(grads, self.max_grad_norm / self.grad_norm)
        self.scaler.step(self.optimizer)
        return True

    def _require_gradient(self) -> None:
        """Parameters of the loss itself are no network, unless the phase trains nothing else."""
        network = [p for name, p in self.named_parameters if name.startswith("denoiser.")]
        if all(p.grad is None for p in network or [p for _, p in self.named_parameters]):
            raise UserError(
                f"loss {self.loss} gives the network no gradient; compute it from the denoiser's prediction"
            )

    @contextmanager
    def only_trainable(self, objective: nn.Module) -> Iterator[None]:
        """Inside, no other parameter requires a gradient: another phase's are used, and left alone."""
        own = {id(parameter) for _, parameter in self.named_parameters}
        others = [one for one in objective.parameters() if one.requires_grad and id(one) not in own]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def state_dict(self) -> dict:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)
