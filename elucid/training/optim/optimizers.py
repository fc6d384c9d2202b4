"""Adam with the learning rate's schedule."""

import torch

from elucid.dnnlib.errors import UserError
from elucid.training.types import Step


class Adam(torch.optim.Adam):
    """Adam whose learning rate ramps up over `lr_rampup_kimg` and, over the last `lr_rampdown` of training, to zero."""

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: list[float] = (0.9, 0.999),
        eps: float = 1e-8,
        lr_rampup_kimg: float = 10000,
        lr_rampdown: float = 0,
    ):
        if len(betas) != 2 or lr_rampup_kimg < 0 or not 0 <= lr_rampdown <= 1:
            raise UserError(
                f"betas={list(betas)}, lr_rampup_kimg={lr_rampup_kimg}, lr_rampdown={lr_rampdown}: betas are two, the "
                "ramp up is 0 kimg or longer, the ramp down a share of training from 0 to 1"
            )
        super().__init__(params, lr=lr, betas=tuple(betas), eps=eps)
        self.peak_lr, self.lr_rampup_kimg, self.lr_rampdown = lr, lr_rampup_kimg, lr_rampdown

    def set_lr(self, step: Step) -> None:
        """Set the learning rate of this step."""
        up = min(step.nimg / max(self.lr_rampup_kimg * 1000, 1e-8), 1.0)
        down = min((1 - step.progress) / self.lr_rampdown, 1.0) if self.lr_rampdown else 1.0
        for group in self.param_groups:
            group["lr"] = self.peak_lr * up * down
