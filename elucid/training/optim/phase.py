"""What the loop steps for one phase."""

from contextlib import contextmanager

import torch

from elucid.dnnlib.errors import UserError


class PhaseOptimizer:
    def __init__(self, optimizer, schedule, named, scaler, max_grad_norm, phase):
        self.optimizer, self.schedule, self.named, self.scaler = optimizer, schedule, list(named), scaler
        self.max_grad_norm, self.phase = max_grad_norm, phase
        self.base = [group["lr"] for group in optimizer.param_groups]
        self.lr = 0.0
        self.grad_norm = None

    def zero_grad(self):
        self.optimizer.zero_grad(set_to_none=True)

    def set_lr(self, step):
        factor = self.schedule(step)
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        self.lr = self.base[0] * factor

    def step_if_finite(self, step):
        self.scaler.unscale_(self.optimizer)
        named = [(name, p.grad) for name, p in self.named if p.grad is not None]
        norms = torch.stack(torch._foreach_norm([grad for _, grad in named]))
        self.grad_norm = norms.norm()
        finite = norms.isfinite()
        if bool(finite.all()):
            self.scaler.step(self.optimizer)
            return True
        if self.scaler.is_enabled() and self.scaler.get_scale() > 2**-16:
            return False
        name = named[int(finite.logical_not().nonzero()[0])][0]
        raise UserError(f"gradient of {name} is not finite")

    def state_dict(self):
        return self.optimizer.state_dict()

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state)

    @contextmanager
    def only_trainable(self, objective):
        """Only this phase's parameters require gradients inside, so that no other gets any."""
        own = {id(parameter) for _, parameter in self.named}
        others = [one for one in objective.parameters() if one.requires_grad and id(one) not in own]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)
