"""Guidance in the target of losses of velocities, with labels dropped, so that one call of the network is guided."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Preconditioned
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.types import Cond


class VelocityGuidance:
    """omega v + kappa u(x, t, t, labels) + (1 - omega - kappa) u(x, t, t, none), u without gradient, in place of v.

    Geng et al. 2025 (arXiv 2505.13447), eq. 19 and its appendix: a model that is trained for it makes with one call
    what guidance of scale omega / (1 - kappa) makes with two. Times outside `interval` keep v, and so do images without
    a label, of which `label_dropout` makes a share. Raises UserError for impossible numbers.
    """

    def __init__(self, omega: float, kappa: float, interval: list[float], label_dropout: float):
        if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
            raise UserError(f"loss.interval={list(interval)} must be two times, the lower one first, in [0, 1]")
        if not 0 <= label_dropout < 1:
            raise UserError(f"loss.label_dropout={label_dropout:g} must be in [0, 1)")
        if not 0 <= kappa < 1 or omega < 0:
            raise UserError(f"loss.kappa={kappa:g} must be in [0, 1) and loss.omega={omega:g} not negative")
        self.omega, self.kappa, self.low, self.high = omega, kappa, *interval
        self.label_dropout = label_dropout

    @property
    def active(self) -> bool:
        return self.omega + self.kappa != 1 or self.kappa != 0

    def check(self, denoiser: Preconditioned) -> None:
        """Raise UserError unless there are labels where they are needed, dropped here only."""
        if not self.active and not self.label_dropout:
            return
        if not denoiser.spec.label_dim:
            raise UserError("loss.omega, loss.kappa and loss.label_dropout need labels, the run has none; use `cond`=1")
        if getattr(denoiser.model, "label_dropout", 0):
            raise UserError("`label_dropout` would drop those of the target, too; set loss.label_dropout instead")
        if self.active and self.omega + self.kappa != 1 and not self.label_dropout:
            raise UserError(
                "loss.omega and loss.kappa guide away from the velocity without labels, which nothing teaches here; "
                "set loss.label_dropout, e.g. to 0.1"
            )

    def dropped(self, cond: Cond, count: int, device) -> Cond:
        """Return the conditions of which a share has lost its labels."""
        if not self.label_dropout or "labels" not in cond:
            return cond
        return self.without_first(cond, (torch.rand(count, device=device) < self.label_dropout).sum())

    @staticmethod
    def without_first(cond: Cond, count: Tensor) -> Cond:
        """Return the conditions without the labels of the first `count` images, which are in no order."""
        labels = cond["labels"]
        kept = torch.arange(len(labels), device=labels.device) >= count
        return {**cond, "labels": labels * kept.reshape(-1, 1).to(labels.dtype)}

    @torch.no_grad()
    def velocity(self, denoiser: FlowPrecond, x: Tensor, t: Tensor, v: Tensor, cond: Cond) -> Tensor:
        """Return the guided velocity [B,C,H,W] at x_t and t [B,1,1,1]."""
        if not self.active:
            return v
        guided = self.omega * v
        if self.kappa:
            guided = guided + self.kappa * denoiser.velocity(x, t, t, cond)
        nothing = {**cond, "labels": torch.zeros_like(cond["labels"])}
        guided = guided + (1 - self.omega - self.kappa) * denoiser.velocity(x, t, t, nothing)
        labelled = (cond["labels"] != 0).any(dim=1).reshape(-1, 1, 1, 1)
        return torch.where(labelled & (t >= self.low) & (t <= self.high), guided, v)
