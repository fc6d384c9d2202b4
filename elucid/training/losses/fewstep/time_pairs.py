"""Pairs of times r <= t for losses of mean velocities."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError

SAMPLERS = ("v0", "v1")


class TimePairs:
    """t, r = sigmoid(P_mean + P_std n), where a share 1 - `ratio` of the pairs has r = t.

    "v0" (Geng et al. 2025, arXiv 2505.13447) puts the two in order, then ties them; "v1", of the published CIFAR-10
    program, ties, then takes r = min(t, r), so that more than that share are tied. `P_mean_r` and `P_std_r` are r's if
    they differ. Raises UserError for an unknown name, and for impossible numbers.
    """

    def __init__(
        self,
        sampler: str,
        ratio: float,
        P_mean: float,
        P_std: float,
        P_mean_r: float | None = None,
        P_std_r: float | None = None,
    ):
        if sampler not in SAMPLERS:
            raise UserError(f"loss.tr_sampler={sampler!r} is unknown; choose from {', '.join(SAMPLERS)}")
        if not 0 <= ratio <= 1:
            raise UserError(f"loss.ratio={ratio:g}, the share of pairs with r < t, must be from 0 to 1")
        self.sampler, self.ratio = sampler, ratio
        self.of_t = P_mean, P_std
        self.of_r = (P_mean if P_mean_r is None else P_mean_r), (P_std if P_std_r is None else P_std_r)
        if min(self.of_t[1], self.of_r[1]) < 0:
            raise UserError(f"loss.P_std={self.of_t[1]:g} and loss.P_std_r={self.of_r[1]:g} must not be negative")

    def draw(self, count: int, device) -> tuple[Tensor, Tensor]:
        """Draw t and r [count,1,1,1]."""
        shape = (count, 1, 1, 1)
        normal = torch.randn(shape, device=device), torch.randn(shape, device=device)
        return self.of(*normal, torch.rand(shape, device=device))

    def of(self, n_t: Tensor, n_r: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Return t and r of two unit normal draws and a uniform one."""
        t, r = ((mean + deviation * n).sigmoid() for n, (mean, deviation) in ((n_t, self.of_t), (n_r, self.of_r)))
        if self.sampler == "v0":
            t, r = torch.maximum(t, r), torch.minimum(t, r)
        return t, torch.where(uniform < 1 - self.ratio, t, torch.minimum(t, r))
