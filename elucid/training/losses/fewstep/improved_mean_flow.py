"""Improved MeanFlow (Geng et al. 2025, arXiv 2512.02012): a regression of the velocity itself."""

import torch
from torch import Tensor

from elucid.training.losses.fewstep.derivative import with_derivative
from elucid.training.losses.fewstep.mean_flow import MeanFlow
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.types import Cond


class ImprovedMeanFlow(MeanFlow):
    """e = |V - v|^2, V = u(x_t, t, r) + (t - r) sg(du/dt), du/dt along the network's own velocity u(x_t, t, t).

    The target no longer contains the network, and what it is asked for depends on x_t alone, as at inference. u(x, t,
    t) stands for the paper's auxiliary head, as in its variant without one; pairs with r = t train it. The scale of
    guidance and its interval are no conditions here. Options as in `MeanFlow`; half of the pairs have r = t.
    """

    uses_all_parameters = True

    def __init__(
        self,
        P_mean: float = -0.4,
        P_std: float = 1.0,
        P_mean_r: float | None = None,
        P_std_r: float | None = None,
        tr_sampler: str = "v0",
        ratio: float = 0.5,
        norm_p: float = 1.0,
        norm_eps: float = 0.01,
        omega: float = 1.0,
        kappa: float = 0.0,
        interval: list[float] = (0.0, 1.0),
        label_dropout: float = 0.0,
        derivative: str = "forward",
    ):
        super().__init__(
            *(P_mean, P_std, P_mean_r, P_std_r, tr_sampler, ratio, norm_p, norm_eps, omega, kappa, interval),
            label_dropout=label_dropout,
            derivative=derivative,
        )

    def error(
        self, denoiser: FlowPrecond, x: Tensor, t: Tensor, r: Tensor, v: Tensor, cond: Cond, share: float
    ) -> Tensor:
        with torch.no_grad():
            own = denoiser.velocity(x, t, t, cond)
        u, slope = with_derivative(lambda x, t: denoiser.velocity(x, t, r, cond), x, t, own, self.derivative)
        return u + (t - r) * slope - v
