"""The optimizer of one phase of a loss, with learning-rate schedule, gradient clipping and gradient checks."""

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.sharding.parts import is_sharded, parts, total_norm
from elucid.training.optim.optimizers import KERNELS, leaves_out_steps
from elucid.training.optim.schedules import LRSchedule
from elucid.training.types import Step

SMALLEST_SCALE = 2**-16
"""Gradients that are not finite at this loss scale or below are taken for divergence, not for fp16 overflow."""


class Stepped(Set):
    """The phases whose optimizers stepped; asking for one waits for the device if that has decided."""

    def __init__(self, by_phase: Mapping[str, bool | Tensor]):
        self.by_phase = by_phase

    def __contains__(self, phase) -> bool:
        return bool(self.by_phase.get(phase, False))

    def __iter__(self) -> Iterator[str]:
        return (phase for phase in self.by_phase if phase in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class PhaseOptimizer:
    """The optimizer of one phase, which sets the scheduled learning rate and steps only on finite gradients.

    `named_parameters` are the (name, parameter) pairs of the phase. `max_grad_norm` clips their total gradient norm;
    None disables clipping. `loss` names the loss in error messages, by default the phase. `lr` and `grad_norm` (before
    clipping, still on the device) are those of the last step, and `diverged` tells whether its gradients were not
    finite for another reason than fp16 overflow. A fused optimizer on a GPU decides there, without the host, whether to
    step: what it answers is then a tensor. Raises UserError for an optimizer without `lr`.
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
            raise UserError(f"optimizer {name} has no number `lr` in its parameter groups; set a learning rate")
        self.optimizer, self.schedule, self.scaler = optimizer, schedule, scaler
        self.named_parameters = list(named_parameters)
        self.max_grad_norm, self.phase, self.loss = max_grad_norm, phase, loss or phase
        # Not restored from a state, so that a resumed run can use another learning rate.
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.lr = float(self.base_lrs[0])
        self.grad_norm: Tensor | None = None
        self.diverged: bool | Tensor = False

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def set_lr(self, step: Step) -> None:
        """Set the learning rates of this step."""
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.schedule.rate(base, step)
        self.lr = self.optimizer.param_groups[0]["lr"]

    def step_if_finite(self) -> bool | Tensor:
        """Clip and step, unless a gradient is not finite on any process; return whether it stepped.

        With fp16 that is overflow at first: `scaler.update` lowers the scale. Raises UserError if the network gets no
        gradient.
        """
        self.scaler.unscale_(self.optimizer)
        self._require_gradient()
        trained = [p for _, p in self.named_parameters if p.grad is not None]
        for parameter in trained if leaves_out_steps(self.optimizer) else ():
            if in_memory(parameter.grad) != in_memory(parameter):
                parameter.grad = laid_out_like(parameter, parameter.grad)
        grads = parts(p.grad for p in trained)
        norms = torch.stack(torch._foreach_norm(grads))
        self.grad_norm, all_finite = total_norm(norms, trained)
        if leaves_out_steps(self.optimizer) and norms.device.type != "cpu":
            return self._step_on_device(grads, all_finite)
        above = self.grad_norm > self.max_grad_norm if self.max_grad_norm else torch.zeros_like(norms[0]).bool()
        finite, clip = torch.stack([all_finite, above]).tolist()  # the only synchronisation with the device
        self.diverged = not finite and not (self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_SCALE)
        if not finite:
            return False
        if clip:
            torch._foreach_mul_(grads, self.max_grad_norm / self.grad_norm)
        self.scaler.step(self.optimizer)
        return True

    def _step_on_device(self, grads: list[Tensor], finite: Tensor) -> Tensor:
        """Clip and step where `finite`, with the words by which torch's loss scaler tells a fused optimizer."""
        if self.max_grad_norm:
            torch._foreach_mul_(grads, torch.where(finite, (self.max_grad_norm / self.grad_norm).clamp(max=1), 1.0))
        self.optimizer.grad_scale, self.optimizer.found_inf = None, (~finite).to(torch.float32)
        try:
            self.optimizer.step()
        finally:
            del self.optimizer.grad_scale, self.optimizer.found_inf
        self.diverged = ~finite
        if self.scaler.is_enabled():
            self.diverged = ~finite & (self.scaler.scale(torch.ones_like(self.grad_norm)) <= SMALLEST_SCALE)
        return finite

    def _require_gradient(self) -> None:
        """Raise UserError if the network, or a phase that trains only the loss's parameters, has no gradient."""
        network = [p for name, p in self.named_parameters if name.startswith("denoiser.")]
        if all(p.grad is None for p in network or [p for _, p in self.named_parameters]):
            raise UserError(
                f"loss {self.loss} gives the network no gradient; compute it from the denoiser's prediction"
            )

    @contextmanager
    def only_trainable(self, objective: nn.Module) -> Iterator[None]:
        """Freeze all parameters of the objective that this phase does not train."""
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
        """Restore a `state_dict`; kernels are chosen for this device, whatever the state was saved on."""
        chosen = [{name: group[name] for name in KERNELS & group.keys()} for group in self.optimizer.param_groups]
        groups = [{**saved, **own} for saved, own in zip(state["param_groups"], chosen, strict=True)]
        self.optimizer.load_state_dict({**state, "param_groups": groups})
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    values[name] = laid_out_like(parameter, value)


def laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a tensor of a parameter's shape in its memory format, which fused kernels take for granted."""
    if value.shape != parameter.shape or is_sharded(value) or in_memory(value) == in_memory(parameter):
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def in_memory(tensor: Tensor) -> list[int]:
    """Return the strides of the dimensions with more than one element, which say in which order they lie in memory."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
